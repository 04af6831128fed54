//! HTTPS, sessions, WebSockets: requests in, views out; no logic.
