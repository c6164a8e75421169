//! Services in this process, on loopback, with the SDK's parties and with hostile peers.

mod harness;
mod hostile;
mod jobs;
mod restart;
mod uploads;
