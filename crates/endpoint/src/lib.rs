//! An HTTP endpoint as a type: router, OpenAPI document and typed client from one definition.
