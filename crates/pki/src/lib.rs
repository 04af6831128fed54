//! The built-in certificate authority and the TLS configurations made from it.
