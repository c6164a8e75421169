<<<<<<< HEAD
//! The services of Quorate and what its binary prints.

pub mod report;
=======
//! The services behind the `quorate` binary.

pub mod http;
>>>>>>> infra
