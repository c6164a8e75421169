use quorate_crypto::fixed::to_ring;
use quorate_crypto::keys::{ExchangeKey, VerifyKey};
use quorate_crypto::schemes;
use quorate_crypto::sum::{Label, PadSuite, Ring, SumShape};
use quorate_protocols::job::{RosterEntry, ThresholdSpec};
use quorate_protocols::model::Progress;
use quorate_protocols::round::messages::{KeyCall, KeyPosted};
use quorate_protocols::wire::{Name, Signed};

use super::*;
use crate::api::{JobSpec, SumTable};

async fn store() -> (tempfile::TempDir, Store) {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path()).await.unwrap();
    (dir, store)
}

/// Two parties, two authorities: seal, release, open; the sum of plain words comes out.
async fn sum_over(scheme: &'static dyn SumScheme, dim: u64) {
    let (_dir, store) = store().await;
    let blobs = store.blobs();
    let shape = SumShape { ring: Ring::Z32, dim, parties: 3, authorities: 2, bits: 32 };
    let context = SumContext {
        label: Label([3; 32]),
        shape,
        suite: PadSuite::Aes256Ctr,
        public: Default::default(),
    };
    let key = |party: u8, authority: u8| SharedKey::from_bytes([party * 16 + authority; 32]);
    let nonce = |party: u8| Nonce([party; 16]);
    let count = i64::try_from(dim).unwrap();
    let mut ciphertexts = Vec::new();
    for party in 0..2u8 {
        let values: Vec<i64> = (0..count).map(|i| i % 1000 - 500 * i64::from(party)).collect();
        let mut plain = Zeroizing::new(Vec::new());
        to_ring(&values, shape.ring, &mut plain);
        let bulk = secret_to_bulk(&plain, (blobs, "plain")).await.unwrap();
        let reader = BulkReader::new(blobs, "plain", bulk);
        let keys = vec![key(party, 0), key(party, 1)];
        let sealed =
            encrypt_to_bulk(scheme, context.clone(), keys, nonce(party), &reader, (blobs, "c"));
        ciphertexts.push(BulkReader::new(blobs, "c", sealed.await.unwrap()));
    }
    let mut keys = Vec::new();
    for authority in 0..2u8 {
        let members = (0..2u8).map(|party| (key(party, authority), nonce(party))).collect();
        let bulk = key_to_bulk(scheme, context.clone(), members, (blobs, "k")).await.unwrap();
        keys.push(BulkReader::new(blobs, "k", bulk));
    }
    let sum = open_to_bulk(scheme, context.clone(), &ciphertexts, &keys, &[], (blobs, "s"))
        .await
        .unwrap();
    let bytes = BulkReader::new(blobs, "s", sum).read_range(0..4 * dim).await.unwrap();
    let words = bytes.as_chunks::<4>().0.iter().map(|word| i64::from(i32::from_le_bytes(*word)));
    assert!(words.eq((0..count).map(|i| 2 * (i % 1000) - 500)));
    // With a key missing nothing opens.
    let open =
        open_to_bulk(scheme, context.clone(), &ciphertexts, &keys[..1], &[], (blobs, "s")).await;
    assert!(matches!(open, Err(EngineError::Scheme(SchemeError::Messages { .. }))));
}

#[tokio::test]
async fn sums_open_over_several_chunks() {
    // One full chunk and a short one.
    sum_over(schemes::by_name("pad").unwrap(), (CHUNK_BYTES as u64) / 4 + 5).await;
}

#[tokio::test]
async fn schemes_with_short_keys_open() {
    sum_over(schemes::by_name("ddh-mcfe").unwrap(), 7).await;
}

#[test]
fn ranges_cover_everything_once_and_fill_chunks() {
    let covered: Vec<_> = ranges(300_000, 8).collect();
    assert_eq!(covered, [0..131_072, 131_072..262_144, 262_144..300_000]);
    assert_eq!(ranges(3, 2 << 20).collect::<Vec<_>>(), [0..1, 1..2, 2..3]);
    assert_eq!(ranges(0, 8).count(), 0);
}

#[tokio::test]
async fn an_identity_is_made_once() {
    let (_dir, store) = store().await;
    let first = load_or_create_identity(&store, "bank-1").await.unwrap();
    let again = load_or_create_identity(&store, "bank-1").await.unwrap();
    let other = load_or_create_identity(&store, "bank-2").await.unwrap();
    assert_eq!(first.identity.verify_key(), again.identity.verify_key());
    assert_eq!((first.epoch, again.epoch), (0, 0));
    assert_ne!(first.identity.verify_key(), other.identity.verify_key());
}

fn manifest(dim: u64) -> Arc<Manifest> {
    let authority = quorate_protocols::job::AuthorityKey {
        name: Name::new("a").unwrap(),
        epoch: 0,
        verify: VerifyKey([1; 32]),
        exchange: ExchangeKey([1; 32]),
    };
    let spec = JobSpec::of_sum("test", 3, SumTable { dim, rounds: 1, max_abs: 10 });
    let tenant = Name::new("t").unwrap();
    Arc::new(spec.into_manifest(tenant, VerifyKey([2; 32]), vec![authority], [0; 16]).unwrap())
}

#[tokio::test]
async fn a_long_vector_is_checked_to_its_last_word() {
    let (_dir, store) = store().await;
    let blobs = store.blobs();
    let dim = 140_000;
    let manifest = manifest(dim);
    let initial = Arc::new(ModelState::of_job(&manifest));
    let mut words = vec![0i64; usize::try_from(manifest.payload(0).unwrap().dim()).unwrap()];
    words[4] = 2;
    words[5..].fill(20);
    for (index, value, legal) in
        [(5, 20, true), (140_004, 21, false), (0, 1, false), (4, 4, false), (5, -21, false)]
    {
        let mut spoiled = words.clone();
        spoiled[index] = value;
        let mut bytes = Vec::new();
        to_ring(&spoiled, Ring::Z64, &mut bytes);
        let bulk = secret_to_bulk(&Zeroizing::new(bytes), (blobs, "s")).await.unwrap();
        let sum = BulkReader::new(blobs, "s", bulk);
        match advance(&manifest, &initial, 0, 2, &sum).await {
            Ok(advanced) => {
                assert!(legal, "word {index} = {value}");
                assert_eq!((advanced.rows, advanced.hash), (2, initial.hash()));
            }
            Err(error) => {
                assert!(!legal, "{error}");
                assert_eq!(error.into_refusal().unwrap().code, Code::CheckSlot);
            }
        }
    }
}

#[tokio::test]
async fn model_states_are_stored_under_their_content() {
    let (_dir, store) = store().await;
    let state =
        ModelState { moments: None, params: vec![1, -2, i64::MIN], progress: Progress::None };
    let bulk = state_to_bulk(&state, (store.blobs(), "m")).await.unwrap();
    let again = state_to_bulk(&state, (store.blobs(), "m")).await.unwrap();
    assert_eq!(bulk, again);
    let reader = BulkReader::new(store.blobs(), "m", bulk);
    assert_eq!(state_from_bulk(&reader).await.unwrap(), state);
}

/// Three parties that hold a key of T = 2 with one authority.
struct Held {
    _dir: tempfile::TempDir,
    store: Store,
    manifest: Arc<Manifest>,
    /// The authority's, then the parties'.
    identities: Vec<Arc<Identity>>,
    key: JobKey,
    secrets: Vec<KeySecret>,
    members: Vec<KeyMember>,
    replies: Vec<BulkReader>,
}

const HELD_LABEL: Label = Label([9; 32]);
const HELD_VALUES: [[i64; 3]; 3] = [[10, -10, 1], [10, -9, -1], [10, -10, 7]];

impl Held {
    /// Makes the key and the replies, all by this module's functions.
    async fn new() -> Self {
        let (dir, store) = store().await;
        let identities: Vec<_> =
            (0..4).map(|_| Arc::new(Identity::generate(&mut os_rng()))).collect();
        let names = ["a", "p1", "p2", "p3"].map(|name| Name::new(name).unwrap());
        let aggregator = Identity::generate(&mut os_rng());
        let authority = quorate_protocols::job::AuthorityKey {
            name: names[0].clone(),
            epoch: 0,
            verify: identities[0].verify_key(),
            exchange: identities[0].exchange_key(),
        };
        let spec = JobSpec::of_sum("test", 3, SumTable { dim: 3, rounds: 1, max_abs: 10 });
        let tenant = Name::new("t").unwrap();
        let verify = aggregator.verify_key();
        let mut manifest = spec.into_manifest(tenant, verify, vec![authority], [0; 16]).unwrap();
        manifest.protocol = quorate_protocols::threshold::PROTOCOL_ID;
        manifest.scheme = schemes::by_name("elgamal").unwrap().info().id;
        manifest.threshold = Some(ThresholdSpec { holders: 3, threshold: 2 });
        manifest.check().unwrap();
        let manifest = Arc::new(manifest);
        let holders: Vec<_> = (1..4)
            .map(|i| RosterEntry {
                party: names[i].clone(),
                epoch: 0,
                verify: identities[i].verify_key(),
                exchange: identities[i].exchange_key(),
            })
            .collect();
        let call = KeyCall {
            manifest: manifest.hash(),
            number: 0,
            holders: holders.clone(),
            network: None,
        };
        let call = Signed::sign(call, &aggregator);
        let mut keying = Keying::new(&manifest, call.signed()).unwrap();
        let mut secrets: Vec<_> = (0..4).map(|_| Secret::new(Vec::new())).collect();
        let scheme = manifest.threshold_scheme().unwrap();
        while let Some((step, waits)) = keying.waits_for(scheme) {
            for number in waits {
                let who = number as usize;
                // What others posted in this step meanwhile changes nothing.
                let work = PostWork { transcript: keying.transcript(), number, step };
                let before = core::mem::replace(&mut secrets[who], Secret::new(Vec::new()));
                let (bytes, secret) =
                    key_post(&manifest, work, &identities[who], before).await.unwrap();
                secrets[who] = secret;
                let post = KeyPost { step, from: number, bytes };
                let (call, seen) = (keying.call().hash(), keying.seen(step));
                let posted = KeyPosted { call, from: names[who].clone(), seen, post };
                let posted = Signed::sign(posted, &identities[who]);
                assert!(keying.push(&manifest, posted.signed()).unwrap());
            }
        }
        let key = keying.complete(&manifest).unwrap();
        let mut held = Self {
            _dir: dir,
            store,
            manifest,
            identities,
            key,
            secrets,
            members: Vec::new(),
            replies: Vec::new(),
        };
        for (index, entry) in holders.into_iter().enumerate() {
            let nonce = Nonce([u8::try_from(index).unwrap(); 16]);
            let reply = held.reply(index, &entry.party, nonce).await;
            let again = held.reply(index, &entry.party, nonce).await;
            assert_eq!(reply.bulk(), again.bulk(), "a restart makes the same reply");
            held.members.push(KeyMember {
                party: entry.party,
                epoch: 0,
                exchange: entry.exchange,
                nonce,
                ciphertext: bulk_ref(reply.bulk()),
            });
            held.replies.push(reply);
        }
        held
    }

    fn scheme(&self) -> &'static dyn SumScheme {
        self.manifest.sum_scheme().unwrap()
    }

    fn context(&self) -> SumContext {
        sum_context(&self.manifest, Some(&self.key), 0, HELD_LABEL).unwrap()
    }

    async fn reply(&self, index: usize, party: &Name, nonce: Nonce) -> BulkReader {
        let blobs = self.store.blobs();
        let spec = self.manifest.payload(0).unwrap();
        let (ring, code) = (self.manifest.ring, &self.manifest.code);
        let plain = payload::plaintext_bytes(&spec, ring, code, 1, 1, &HELD_VALUES[index]).unwrap();
        let bulk = secret_to_bulk(&Zeroizing::new(plain), (blobs, "plain")).await.unwrap();
        let plain = BulkReader::new(blobs, "plain", bulk);
        let binding = reply_binding(&HELD_LABEL, party, &nonce);
        let identity = &self.identities[index + 1];
        let (context, output) = (self.context(), (blobs, "replies"));
        let reply = reply_to_bulk(self.scheme(), context, identity, binding, &plain, output);
        BulkReader::new(blobs, "replies", reply.await.unwrap())
    }

    /// The partial decryption of a participant: 0 is the authority.
    async fn partial(&self, who: usize, replies: &[BulkReader]) -> Result<BulkReader, EngineError> {
        let (blobs, number) = (self.store.blobs(), u32::try_from(who).unwrap());
        let identity = &self.identities[who];
        let secret = Secret::new(self.secrets[who].expose().clone());
        let share = key_share(&self.manifest, &self.key, number, identity, secret).await?;
        let step = if who == 0 { STEP_KEY } else { STEP_PARTIAL };
        let (mine, output) = ((identity.as_ref(), &share), (blobs, "partials"));
        let (scheme, members) = (self.scheme(), &self.members);
        let made =
            partial_to_bulk(scheme, self.context(), step, mine, members, replies, output).await?;
        Ok(BulkReader::new(blobs, "partials", made))
    }

    async fn open(
        &self,
        keys: &[BulkReader],
        partials: &[BulkReader],
    ) -> Result<Vec<i64>, EngineError> {
        let (blobs, replies) = (self.store.blobs(), &self.replies);
        let output = (blobs, "sum");
        let sum =
            open_to_bulk(self.scheme(), self.context(), replies, keys, partials, output).await?;
        let sum = BulkReader::new(blobs, "sum", sum);
        Ok(read_sum(&self.manifest, 0, replies.len(), &sum).await?.body.clone())
    }
}

#[tokio::test]
async fn any_two_holders_and_the_authority_open_a_sum() {
    let held = Held::new().await;
    for (member, reply) in held.members.iter().zip(&held.replies) {
        let header = SubmitHeader {
            scheme: held.manifest.scheme,
            manifest: held.manifest.hash(),
            label: HELD_LABEL,
            party: member.party.clone(),
            epoch: 0,
            nonce: member.nonce,
            ciphertext: member.ciphertext,
        };
        verify_reply(&held.manifest, &held.key, 0, &header, reply).await.unwrap();
        let header = SubmitHeader { label: Label([8; 32]), ..header };
        let refused = verify_reply(&held.manifest, &held.key, 0, &header, reply).await;
        let refused = refused.unwrap_err().into_refusal().unwrap();
        assert_eq!(refused.code, Code::BadCiphertext);
        assert_eq!(refused.culprits, [Culprit::Party(member.party.clone())]);
    }
    let mut partials = Vec::new();
    for who in 0..4 {
        let made = held.partial(who, &held.replies).await.unwrap();
        let again = held.partial(who, &held.replies).await.unwrap();
        assert_eq!(made.bulk(), again.bulk(), "asked again, the same bytes");
        partials.push(made);
    }
    let key = core::slice::from_ref(&partials[0]);
    for (a, b) in [(1, 2), (1, 3), (2, 3)] {
        let chosen = [partials[a].clone(), partials[b].clone()];
        assert_eq!(held.open(key, &chosen).await.unwrap(), [30, -29, 7]);
    }
    assert!(held.open(key, &partials[1..2]).await.is_err(), "one holder opens nothing");
    assert!(held.open(&[], &partials[1..]).await.is_err(), "nor do all without the authority");
    // A partial decryption of something else is named by its place.
    let wrong = [partials[1].clone(), held.replies[0].clone()];
    let error = held.open(key, &wrong).await.unwrap_err();
    assert!(matches!(error, EngineError::Message { index: 5, .. }), "{error}");
}

#[tokio::test]
async fn a_copied_reply_names_its_sender() {
    let held = Held::new().await;
    let mut replies = held.replies.clone();
    replies[2] = replies[0].clone();
    for who in [0, 1] {
        let error = held.partial(who, &replies).await.err().expect("a copy is refused");
        let refusal = reply_fault(error, &held.members).unwrap();
        assert_eq!(refusal.code, Code::BadCiphertext);
        assert_eq!(refusal.culprits, [Culprit::Party(Name::new("p3").unwrap())]);
    }
    // A set cut short is nobody's wrong reply.
    let error = held.partial(1, &held.replies[..2]).await.err().expect("a member is missing");
    assert!(reply_fault(error, &held.members).is_err());
}

#[test]
fn seeded_noise_differs_by_job_round_and_party() {
    let draw = |seed: Option<&[u8; 32]>, job, round, party| {
        noise_rng(seed, &Hash([job; 32]), round, &Name::new(party).unwrap()).next_u64()
    };
    let first = draw(Some(&[1; 32]), 1, 0, "a");
    assert_eq!(first, draw(Some(&[1; 32]), 1, 0, "a"));
    let others = [
        draw(Some(&[2; 32]), 1, 0, "a"),
        draw(Some(&[1; 32]), 2, 0, "a"),
        draw(Some(&[1; 32]), 1, 1, "a"),
        draw(Some(&[1; 32]), 1, 0, "b"),
        draw(None, 1, 0, "a"),
    ];
    assert!(!others.contains(&first));
    assert_ne!(draw(None, 1, 0, "a"), draw(None, 1, 0, "a"));
}
