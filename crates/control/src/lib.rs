//! The brain: services, tasks and controllers. Never sees HTTP.
