//! The public REST contract of Hostler: one type per endpoint, views, error codes.
