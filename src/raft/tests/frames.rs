//! Every frame against its bytes.
