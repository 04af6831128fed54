//! The contract between server and agent, over mutual TLS.
