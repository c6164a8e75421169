//! Labels of payments from encrypted flags: the label-only mode of PV4FAD, on the crate `tfhe`.
//!
//! **Licence.** `tfhe` and its sibling crates are BSD-3-Clause-Clear, without a patent grant: commercial
//! use needs a paid patent licence from their owner, Zama. This crate therefore stands alone, outside the
//! main workspace, with a binary of its own.
//!
//! # The protocol
//! A payment network has trained a forest with its banks and wants the label of a payment: is its score,
//! which depends on what the banks of its two accounts know, at least a threshold? Since the network knows
//! everything else about the payment, the forest collapses to a table from the pair of the two banks' classes to a
//! label ([`table::Table`]). Three roles look it up under encryption:
//!
//! | message | from, to | carries |
//! |---|---|---|
//! | public key, evaluation key | key holder to banks and network | once per key; whether it opens labels or scores |
//! | [`FlagAsk`](wire::Kind::FlagAsk) | network to bank | accounts, and names of payees |
//! | [`FlagAnswer`](wire::Kind::FlagAnswer) | bank to network | their classes under the public key |
//! | [`OpenAsk`](wire::Kind::OpenAsk) | network to key holder | per payment a ciphertext of label XOR mask |
//! | [`Opened`](wire::Kind::Opened) | key holder to network | the masked labels |
//!
//! The network adds the two classes to a number of their pair and applies one programmable bootstrap whose
//! table is that of the payment with the mask in it: OR, forest, threshold and XOR are one look-up. The same
//! with 16 answers opens the index of a score among the payment's scores, masked modulo 16. A key opens the one or
//! the other, as its name binds, so a bank knows which before it answers.
//!
//! # Security
//! [`CARD`] says what each role learns; `docs/protocol-pv4fad-tfhe.md` says why. In short: **the key holder
//! must not collude with the network**, together they read every flag; and the network must follow the protocol, since
//! nothing proves to the key holder what a ciphertext is: 918 labels of a network that deviates are the secret key
//! ([`parameters::KEY_BITS`]), and limits below that are of use for some hundred payments only. Messages have no
//! signatures of their own: each must travel over a channel that authenticates both ends, and that from bank to
//! network must be sealed, because whoever shows a flag answer to the key holder's key reads it.
//!
//! The crate `tfhe` does not wipe its memory: key generation leaves copies of the secret key behind in the
//! memory of its process, encryption leaves classes. The key holder makes keys in a process that should end then, and
//! decrypts in another, with its own code on a wiped key.
//!
//! # Source
//! TFHE: Chillotti, Gama, Georgieva, Izabachene (J. Cryptology 2020). Compact public keys: Joye (ePrint
//! 2023/603). Collapsing the forest to a table, masked openings and flooding are our own.

#![cfg_attr(not(test), deny(clippy::unwrap_used, clippy::indexing_slicing))]

pub mod bank;
mod evaluation;
pub mod holder;
mod journal;
pub mod network;
pub mod parameters;
pub mod table;
pub mod wire;

#[cfg(test)]
mod tests;

use quorate_protocols::card::{Card, Guarantee};

/// The sentence that whoever runs this must have read.
pub const PATENT_NOTICE: &str = "tfhe (BSD-3-Clause-Clear) grants no patent licence: commercial use needs a paid patent licence \
     from its owner, Zama";

/// What the protocol promises.
pub const CARD: Card = Card {
    protocol: "PV4FAD (arXiv 2310.19304), label-only mode on TFHE: public-key flags, one programmable \
               bootstrap per payment, masked openings by one key holder",
    phase: "use of a fraud forest over payments of a network and account flags of banks",
    guarantees: &[
        Guarantee {
            role: "network",
            learns: "the label (under a key for scores: the score) of every payment that it queries, and so \
                     wherever its table differs something of the pair of classes; no other flag as long as it \
                     follows the protocol",
        },
        Guarantee {
            role: "bank",
            learns: "which of its accounts are queried, when, and payees' names; no label, score, table, nor \
                     another bank's flag",
        },
        Guarantee {
            role: "key holder",
            learns: "the names, rows and times of queries; uniformly random masked answers; no account, table \
                     or bank. By the noise of a ciphertext it could tell two tables or flags apart with \
                     advantage below 2^-12 per label, 2^-9 per score; this adds up",
        },
        Guarantee {
            role: "bank with the key holder",
            learns: "what both learn, joined by the names of queries: which of the bank's accounts were opened \
                     when, and how many other rows with them; whatever lists the bank sent, no label, table or \
                     other bank's flag but by noise, as above",
        },
    ],
    utility: "every label and score equals the plain forest's to the bit; a wrong bootstrap has probability \
              below 2^-128; one bootstrap per payment, 16 kB per bank, side and query and 8 bytes per flag \
              up, 8 kB per payment to the key holder",
    leakage: "a label tells the network what its table makes of it; two aimed labels read an account's class, one \
              score those of both accounts: limits in bits, per account at the bank, per key and per window at the \
              key holder, and their journals stand against that while the network follows the protocol",
    assumptions: &[
        "the key holder and the network do not collude: together they read every flag",
        "the network follows the protocol: a ciphertext of its making opens one bit (a score: four) of any flag \
         that it holds, as often as it likes, or of the key. 918 such bits are the whole key, and each before that \
         takes roughly a seventh of a bit off its 128; so a key holder's limit in all protects a key that opens \
         some hundred payments, and beyond that the network is trusted. Journals show how often, nothing detects it",
        "the key holder makes its keys as it should and opens truthfully: an evaluation key of another design can \
         cancel masks or falsify answers, and it can flip any label that it opens",
        "a bank that sends false or malformed flags is not detected: there are no proofs of plaintexts; it \
         spoils the answers of its own payments only, and tells the key holder nothing by it",
        "channels authenticate both ends, and hide flag answers from the key holder",
        "every store is durable, and is neither rolled back behind its process nor copied with its journal",
        PATENT_NOTICE,
    ],
};
