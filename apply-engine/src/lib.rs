//! apply-engine
