//! HybridAlpha: rounds opened by functional keys.
//!
//! Source: Xu, Baracaldo, Zhou, Anwar, Ludwig, *HybridAlpha: An Efficient Approach for
//! Privacy-Preserving Federated Learning* (arXiv 1912.05897), with the repairs that its published
//! form needs: keys bound to one label, one opening per round whatever its attempts, several
//! authorities that are all needed. The machines are those of [`round`](crate::round); after every
//! authority's promise each releases one functional key, and the aggregator opens the sum.

use crate::card::{Card, Guarantee};

/// Number of this protocol in manifests and envelopes.
pub const PROTOCOL_ID: u16 = 1;

/// What HybridAlpha promises.
pub const CARD: Card = Card {
    protocol: "HybridAlpha (Xu et al., arXiv 1912.05897), with keys bound to one label and one \
               opening per round",
    phase: "training: federated averaging of a model, or plain sums of vectors, over rows that \
            parties keep",
    guarantees: &[
        Guarantee {
            role: "aggregator",
            learns: "one sum per round over the frozen set, at least r_min = max(quorum, k_min + c) \
                     parties, and who is in it; no party's vector, and never two sums of one round",
        },
        Guarantee {
            role: "authority",
            learns: "who takes part, and when; no ciphertext, plaintext or sum",
        },
        Guarantee {
            role: "party",
            learns: "the opened sums and what follows from its own share of them; no other party's \
                     vector",
        },
    ],
    utility: "exact sums; one upload per party and round, no extra round for drop-outs; one promise \
              and one functional key per authority and round, whose length the scheme sets",
    leakage: "each opened sum, exactly (no noise in this version): the model of every round, the \
              loss and row count of the members together, and their column means; rounds that \
              differ by one party show its row count and approximate its update; c colluding \
              parties subtract their own vectors and see the sum of at least k_min others",
    assumptions: &[
        "the aggregator and at least one authority do not collude",
        "at most c of the invited parties collude with the aggregator",
        "keys enrolled at first sight are the right ones: enrolment is trusted on first use",
        "every store is durable and is not rolled back behind its process",
        "parties may lie about their data: a false value within bounds is not detected",
    ],
};
