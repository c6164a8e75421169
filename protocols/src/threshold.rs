//! Threshold homomorphic encryption with distributed differential privacy: the Truex hybrid.
//!
//! Source: Truex, Baracaldo, Anwar, Steinke, Ludwig, Zhang, Zhou, *A Hybrid Approach to
//! Privacy-Preserving Federated Learning* (arXiv 1812.03224). Parties encrypt noised answers under
//! one public key; the aggregator adds ciphertexts; T of N holders **and the authority**, whose share
//! is mandatory, open the sum and nothing else. Because nobody sees a single answer, each party adds
//! only its share of the noise: variance sigma^2 / h, h = r_min - c - 1.
//!
//! The machines are those of [`round`](crate::round). In the words of the paper's job:
//!
//! | there | here |
//! |---|---|
//! | PublicKey, Share | [`KeyCall`](crate::round::messages::KeyCall), [`KeyPosted`](crate::round::messages::KeyPosted): posts of authority and holders, seen by all |
//! | Query | [`RoundOpen`](crate::round::messages::RoundOpen) under a manifest with the privacy table |
//! | Reply | ciphertexts with a proof, under a signed [`SubmitHeader`](crate::round::messages::SubmitHeader) |
//! | Frozen | [`Freeze`](crate::round::messages::Freeze) and the authority's promise for it |
//! | DecReq, Partial | key request to the authority; [`ShareAsk`](crate::round::messages::ShareAsk) to holders, [`Partial`](crate::round::messages::Partial) |
//! | Result | [`ResultRecord`](crate::round::messages::ResultRecord) |

use crate::card::{Card, Guarantee};

/// Number of this protocol in manifests and envelopes.
pub const PROTOCOL_ID: u16 = 2;

/// What the threshold protocol promises.
pub const CARD: Card = Card {
    protocol: "Threshold encryption with distributed differential privacy (Truex et al., arXiv \
               1812.03224), with the authority as mandatory signer",
    phase: "training: trees, naive Bayes, linear machines and small networks, or plain sums, over \
            rows that parties keep",
    guarantees: &[
        Guarantee {
            role: "aggregator",
            learns: "one noised sum per round over the frozen set, at least r_min = max(quorum, k_min \
                     + c) parties, and who is in it",
        },
        Guarantee {
            role: "authority",
            learns: "who takes part, and the ciphertexts of frozen sets; with T colluding holders, \
                     everything. As the dealer of a paillier key it could open any ciphertext until \
                     it wiped the primes and the polynomial",
        },
        Guarantee {
            role: "holder",
            learns: "the ciphertexts of frozen sets; fewer than T, or any number without the \
                     authority, nothing more than the opened sums",
        },
        Guarantee { role: "party", learns: "the opened sums, and its own share of their noise" },
    ],
    utility: "exact sums of what was encrypted; one upload per party and round, then one partial \
              decryption by the authority and T holders; elgamal for counts, paillier for wider \
              values up to about 10^4 coordinates",
    leakage: "each opened sum with noise of at least sigma even to c colluders and one curious party \
              together; without a privacy table the exact sum",
    assumptions: &[
        "the aggregator, the authority and T holders do not all collude",
        "at most c of the invited parties collude with the aggregator",
        "paillier: the authority deals the key honestly and forgets the primes",
        "keys enrolled at first sight are the right ones: enrolment is trusted on first use",
        "every store is durable and is not rolled back behind its process",
        "parties may lie about their data: a false value within bounds is not detected",
        "not post-quantum",
    ],
};
