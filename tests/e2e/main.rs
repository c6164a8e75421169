//! Services in this process, on loopback, with the SDK's parties and with hostile peers.

mod budget;
mod harness;
mod hostile;
mod jobs;
mod payments;
mod restart;
mod threshold;
mod threshold_lies;
mod threshold_noise;
mod threshold_shares;
mod uploads;
mod vertical;
