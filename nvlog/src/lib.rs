//! nvlog
