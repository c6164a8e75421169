//! What threshold jobs must refuse, on every registered threshold scheme, through the real machines.

use curve25519_dalek::constants::RISTRETTO_BASEPOINT_POINT as G;
use curve25519_dalek::ristretto::{CompressedRistretto, RistrettoPoint};
use curve25519_dalek::scalar::Scalar;
use quorate_crypto::conformance::plain_sum;
use quorate_crypto::schemes;
use quorate_crypto::sum::Role;
use quorate_crypto::threshold::ThresholdScheme;
use quorate_protocols::job::ThresholdSpec;
use quorate_protocols::refusal::{Code, Culprit, Refusal};
use quorate_protocols::round::keying::Keying;
use quorate_protocols::round::messages::{RoundOpen, ShareAsk, SubmitHeader};
use quorate_protocols::sim::lab::{Kind, Size, bulk, quick_threshold_schemes};
use quorate_protocols::sim::scenario::size;
use quorate_protocols::sim::stage::{Stage, Submission, indicator};
use quorate_protocols::wire::{Name, Signed};

const ALL: [usize; 5] = [0, 1, 2, 3, 4];

/// Five parties, all of them holders, three of whom open.
fn stages() -> Vec<Stage> {
    let ids = quick_threshold_schemes().map(|scheme| scheme.info().id);
    ids.map(|id| Stage::keyed(11, &size(Kind::Sum, id))).collect()
}

fn collected(stage: &mut Stage) -> (Signed<RoundOpen>, Vec<Submission>) {
    let open = stage.sign(stage.opening(0, 0, &ALL));
    let members = stage.submit_all(&ALL, &open).unwrap();
    (open, members)
}

fn y(open: &Signed<RoundOpen>, members: &[Submission]) -> Vec<u8> {
    indicator(&open.peek().unwrap().roster, members)
}

fn party(stage: &Stage, party: usize) -> Culprit {
    Culprit::Party(stage.lab.parties[party].entry.party.clone())
}

fn refused<T: core::fmt::Debug>(outcome: Result<T, Refusal>, code: Code, culprits: &[Culprit]) {
    let refusal = outcome.unwrap_err();
    assert_eq!((refusal.code, refusal.culprits.as_slice()), (code, culprits), "{refusal}");
}

/// An honest ask for everyone's sum, with the authority's partial decryption.
fn asked(stage: &mut Stage) -> (Vec<Submission>, ShareAsk, Vec<u8>) {
    let (open, members) = collected(stage);
    let freeze = stage.freeze(&open, &members);
    let promise = stage.promise(0, &freeze, &y(&open, &members)).unwrap();
    let label = open.peek().unwrap().fields.label(&stage.lab.manifest);
    let authority = stage.key(0, label, core::slice::from_ref(&promise)).unwrap();
    let ask = stage.ask(&freeze, &[promise]);
    (members, ask, authority)
}

#[test]
fn every_t_subset_of_five_opens_and_no_smaller_one_nor_all_without_the_authority() {
    for mut stage in stages() {
        let (members, ask, authority) = asked(&mut stage);
        let partials: Vec<(Name, Vec<u8>)> = ALL
            .iter()
            .map(|holder| {
                let (said, bytes) = stage.share(*holder, &ask).unwrap();
                (said.peek().unwrap().holder, bytes)
            })
            .collect();
        let key = stage.key.as_ref().unwrap();
        let lab = &stage.lab;
        let label = members[0].header.peek().unwrap().label;
        let replies: Vec<Vec<u8>> = members.iter().map(|one| one.ciphertext.clone()).collect();
        let plains: Vec<Vec<u8>> =
            ALL.iter().map(|p| lab.plaintext(*p, 0, stage.model.hash())).collect();
        let truth = plain_sum(lab.manifest.ring, &ALL, &plains);
        let mut opened = 0;
        for set in 0u32..1 << ALL.len() {
            let some: Vec<_> =
                ALL.iter().filter(|i| set >> **i & 1 == 1).map(|i| partials[*i].clone()).collect();
            let sum = lab.open_shares(key, 0, label, &replies, &authority, &some);
            if some.len() == 3 {
                assert_eq!(sum, Ok(truth.clone()), "{set:b}");
                opened += 1;
            } else {
                assert!(sum.is_err(), "{set:b}");
            }
        }
        assert_eq!(opened, 10);

        // A holder's answer does not stand for the authority's.
        let instead = &partials[4].1;
        let sum = lab.open_shares(key, 0, label, &replies, instead, &partials[..3]);
        let named = Culprit::Authority(lab.authorities[0].name.clone());
        refused(sum, Code::BadShare, &[named]);
        // Nor does one holder's for another's.
        let twice = [
            partials[0].clone(),
            partials[1].clone(),
            (partials[2].0.clone(), partials[1].1.clone()),
        ];
        let sum = lab.open_shares(key, 0, label, &replies, &authority, &twice);
        refused(sum, Code::BadShare, &[party(&stage, 2)]);

        // All holders and no authority.
        let scheme = lab.manifest.threshold_scheme().unwrap();
        let public = scheme.load(key.public()).unwrap();
        let shape = lab.manifest.shape(0).unwrap();
        let mut sum = public.sum(&shape);
        replies.iter().for_each(|reply| sum.add(reply).unwrap());
        for count in 0..=partials.len() {
            let holders: Vec<&[u8]> =
                partials[..count].iter().map(|(_, bytes)| bytes.as_slice()).collect();
            let mut out = Default::default();
            assert!(public.open(&shape, 5, sum.as_ref(), &holders, &mut out).is_err(), "{count}");
        }
    }
}

#[test]
fn a_set_below_the_floor_a_second_set_and_a_changed_list_are_refused() {
    for mut stage in stages() {
        let (open, members) = collected(&mut stage);
        let few = stage.freeze(&open, &members[..2]);
        let promise = stage.promise(0, &few, &y(&open, &members[..2]));
        refused(promise, Code::SetTooSmall, &[Culprit::Aggregator]);
        // A holder does not take a colluding authority's word for it either.
        let stolen = stage.stolen_promise(&few);
        let ask = stage.ask(&few, &[stolen]);
        refused(stage.share(0, &ask), Code::SetTooSmall, &[Culprit::Aggregator]);

        let freeze = stage.freeze(&open, &members);
        let promise = stage.promise(0, &freeze, &y(&open, &members)).unwrap();
        let less = &members[..4];
        let second = stage.freeze(&open, less);
        refused(
            stage.promise(0, &second, &y(&open, less)),
            Code::Difference,
            &[Culprit::Aggregator],
        );
        // The promise for one list does not open another, and none opens nothing.
        let changed = stage.ask(&second, core::slice::from_ref(&promise));
        refused(stage.share(0, &changed), Code::BadPromises, &[]);
        let bare = stage.ask(&freeze, &[]);
        refused(stage.share(0, &bare), Code::BadPromises, &[]);
        let ask = stage.ask(&freeze, &[promise]);
        let first = stage.share(0, &ask).unwrap();
        let stolen = stage.stolen_promise(&second);
        let ask_second = stage.ask(&second, &[stolen]);
        refused(stage.share(0, &ask_second), Code::Difference, &[Culprit::Aggregator]);
        assert_eq!(stage.share(0, &ask).unwrap(), first);
    }
}

/// Party 1's submission with other bytes, signed by party 1.
fn forged(stage: &mut Stage, members: &[Submission], ciphertext: Vec<u8>) -> Submission {
    let header = SubmitHeader {
        ciphertext: bulk(&ciphertext),
        // The nonce is a party's own choice: the victim's may be copied too.
        nonce: members[0].header.peek().unwrap().nonce,
        ..members[1].header.peek().unwrap()
    };
    let header = Signed::sign(header, &stage.lab.parties[1].identity).signed().clone();
    stage.spool.insert(bulk(&ciphertext).root, ciphertext.clone());
    Submission { header, ciphertext }
}

/// The aggregator refuses party 1's reply; if it does not look, the authority and every holder do,
/// and all of them name party 1.
fn named_by_all(
    stage: &mut Stage,
    members: &[Submission],
    open: &Signed<RoundOpen>,
    bytes: Vec<u8>,
) {
    let one = forged(stage, members, bytes);
    let named = [party(stage, 1)];
    let key = stage.key.clone().unwrap();
    let said = one.header.peek().unwrap();
    let taken = stage.lab.verify_reply(&key, 0, &said, &one.ciphertext);
    refused(taken, Code::BadCiphertext, &named);
    let mut set = members.to_vec();
    set[1] = one;
    let freeze = stage.freeze(open, &set);
    let stolen = stage.stolen_promise(&freeze);
    let ask = stage.ask(&freeze, &[stolen]);
    refused(stage.share(2, &ask), Code::BadCiphertext, &named);
    let promise = stage.promise(0, &freeze, &y(open, &set)).unwrap();
    refused(stage.key(0, said.label, &[promise]), Code::BadCiphertext, &named);
}

#[test]
fn copied_replayed_and_altered_replies_are_refused_and_their_sender_named() {
    for id in quick_threshold_schemes().map(|scheme| scheme.info().id) {
        // Copied as it is; replayed from a round before; with bits of ciphertext or proof changed.
        let at = |bytes: &[u8], place: usize| {
            let mut bytes = bytes.to_vec();
            bytes[place] ^= 1;
            bytes
        };
        for attack in 0..4 {
            let mut stage = Stage::keyed(11, &size(Kind::Sum, id));
            let (open, members) = collected(&mut stage);
            let victim = members[0].ciphertext.clone();
            let own = members[1].ciphertext.clone();
            let bytes = match attack {
                0 => victim,
                1 => {
                    // The same party's reply of another job's round, under another label.
                    let mut before = Stage::keyed(12, &size(Kind::Sum, id));
                    collected(&mut before).1[1].ciphertext.clone()
                }
                2 => at(&own, 0),
                _ => at(&own, own.len() - 1),
            };
            named_by_all(&mut stage, &members, &open, bytes);
        }
    }
}

/// Every ciphertext of an elgamal reply changed by `change`, its proof kept.
fn mapped(
    reply: &[u8],
    change: impl Fn(RistrettoPoint, RistrettoPoint) -> (RistrettoPoint, RistrettoPoint),
) -> Vec<u8> {
    let (ciphers, proof) = reply.split_at(reply.len() - 96);
    let point =
        |bytes: &[u8]| CompressedRistretto::from_slice(bytes).unwrap().decompress().unwrap();
    let mut out = Vec::new();
    for cipher in ciphers.chunks_exact(64) {
        let (a, b) = change(point(&cipher[..32]), point(&cipher[32..]));
        out.extend(a.compress().to_bytes());
        out.extend(b.compress().to_bytes());
    }
    out.extend(proof);
    out
}

#[test]
fn negated_scaled_and_re_randomised_elgamal_replies_are_refused_and_their_sender_named() {
    let id = schemes::by_name("elgamal").unwrap().info().id;
    let blind = Scalar::from(0x1234_5678_9abc_u64);
    for attack in 0..3 {
        let mut stage = Stage::keyed(11, &size(Kind::Sum, id));
        let (open, members) = collected(&mut stage);
        let victim = &members[0].ciphertext;
        let public = stage.key.as_ref().unwrap().public();
        let point = |at: usize| {
            CompressedRistretto::from_slice(&public[at..at + 32]).unwrap().decompress().unwrap()
        };
        // Version, N and T come first, then the authority's key and the holders' together.
        let encryption = point(9) + point(41);
        let bytes = match attack {
            0 => mapped(victim, |a, b| (-a, -b)),
            1 => mapped(victim, |a, b| (a + a, b + b)),
            _ => mapped(victim, |a, b| (a + blind * G, b + blind * encryption)),
        };
        assert_eq!(bytes.len(), victim.len());
        named_by_all(&mut stage, &members, &open, bytes);
    }
}

#[test]
fn a_holder_that_breaks_the_key_is_named_and_the_key_is_made_without_it() {
    let by_holders = |scheme: &&dyn ThresholdScheme| {
        scheme.key_steps().iter().any(|step| step.by == Role::Decryptor)
    };
    for scheme in quick_threshold_schemes().filter(by_holders) {
        let threshold = Some(ThresholdSpec { holders: 3, threshold: 2 });
        let size = Size { threshold, ..size(Kind::Sum, scheme.info().id) };
        let mut stage = Stage::new(11, &size);
        let call = stage.call(0, &[0, 1, 2]);
        let mut keying = Keying::new(&stage.lab.manifest, &call).unwrap();
        let Some((_, waits)) = keying.waits_for(scheme).filter(|(_, who)| who.contains(&1)) else {
            // A dealer's scheme: its holders post nothing that could be wrong.
            continue;
        };
        let shown = keying.transcript();
        for number in waits {
            let holder = number as usize - 1;
            let mut post = stage.show_key(holder, &shown).unwrap().unwrap();
            if number == 1 {
                let mut said = post.peek().unwrap();
                said.post.bytes.truncate(5);
                post = Signed::sign(said, &stage.lab.parties[0].identity).signed().clone();
            }
            keying.push(&stage.lab.manifest, &post).unwrap();
        }
        refused(keying.check(&stage.lab.manifest), Code::BadKey, &[party(&stage, 0)]);
        // Whoever would post next finds the same; who holds no share waits for the complete key.
        refused(stage.show_key(1, &keying.transcript()), Code::BadKey, &[party(&stage, 0)]);
        assert_eq!(stage.show_key(3, &keying.transcript()), Ok(None));
        let transcript = stage.make_key(1, &[1, 2, 3]).unwrap();
        stage.accept_key(&transcript).unwrap();
        let (open, members) = collected(&mut stage);
        let freeze = stage.freeze(&open, &members);
        let promise = stage.promise(0, &freeze, &y(&open, &members)).unwrap();
        let label = open.peek().unwrap().fields.label(&stage.lab.manifest);
        stage.key(0, label, core::slice::from_ref(&promise)).unwrap();
        let ask = stage.ask(&freeze, &[promise]);
        stage.share(1, &ask).unwrap();
        // The one that was left out holds no share of this key.
        refused(stage.share(0, &ask), Code::BadKey, &[]);
    }
}
