use proptest::prelude::*;
use serde_json::Value;

use super::*;

fn bytes(value: &Value) -> Vec<u8> {
    hex::decode(value.as_str().unwrap()).unwrap()
}

fn list(value: &Value) -> Vec<Vec<u8>> {
    value.as_array().unwrap().iter().map(bytes).collect()
}

fn scalar_of(bytes: &[u8]) -> Scalar {
    Scalar::from_canonical_bytes(bytes.try_into().unwrap()).unwrap()
}

fn key(seed: u8) -> EvaluationKey {
    EvaluationKey::derive(&Secret::new([seed; 32]), b"job").unwrap()
}

fn blinder(seed: u8) -> Blinder {
    Blinder::new(Secret::new([seed; 32]))
}

/// The whole exchange of one batch with several authorities.
fn run(blinder: &Blinder, keys: &[&EvaluationKey], inputs: &[Vec<u8>]) -> Vec<[u8; 64]> {
    let blinded = blinder.blind(inputs).unwrap();
    let public: Vec<_> = keys.iter().map(|key| key.public()).collect();
    let answers: Vec<_> = keys
        .iter()
        .map(|key| {
            let answer = key.evaluate(&blinded).unwrap();
            Evaluated::check(&key.public(), &blinded, &answer).unwrap()
        })
        .collect();
    blinder.finalise(inputs, &blinded, &public, &answers).unwrap().expose().to_vec()
}

/// F(x) computed by whoever holds the key, without blinds: the RFC's `Evaluate`.
fn direct(secret: &Scalar, input: &[u8]) -> [u8; 64] {
    let element = (suite::hash_to_group(input) * secret).compress();
    let mut hash = Sha512::new();
    hash.update(u16::try_from(input.len()).unwrap().to_be_bytes());
    hash.update(input);
    hash.update([0, 32]);
    hash.update(element.as_bytes());
    hash.update(b"Finalize");
    hash.finalize().into()
}

/// Every value of the RFC's vectors, byte for byte.
#[test]
fn rfc_9497_vectors() {
    let file: Value = serde_json::from_str(include_str!("vectors.json")).unwrap();
    let seed = Secret::new(bytes(&file["seed"]).try_into().unwrap());
    let key = EvaluationKey::derive(&seed, &bytes(&file["key_info"])).unwrap();
    assert_eq!(key.secret.expose().as_bytes().as_slice(), bytes(&file["secret_key"]));
    assert_eq!(key.public().0.as_slice(), bytes(&file["public_key"]));
    let vectors = file["vectors"].as_array().unwrap();
    assert_eq!(vectors.len(), 3);
    for vector in vectors {
        let inputs = list(&vector["inputs"]);
        let blinds = || {
            Secret::new(list(&vector["blinds"]).iter().map(|b| scalar_of(b)).collect::<Vec<_>>())
        };
        let blinded = blind_with(&inputs, &blinds()).unwrap();
        assert_eq!(blinded, list(&vector["blinded"]).concat());
        let nonce = Secret::new(scalar_of(&bytes(&vector["proof_nonce"])));
        let answer = key.evaluate_with(&blinded, |_, _| nonce).unwrap();
        let expected = [list(&vector["evaluated"]).concat(), bytes(&vector["proof"])].concat();
        assert_eq!(answer, expected);
        let checked = Evaluated::check(&key.public(), &blinded, &answer).unwrap();
        let outputs =
            finalise_with(&inputs, blinds(), &blinded, &[key.public()], &[checked]).unwrap();
        assert_eq!(outputs.expose().concat(), list(&vector["outputs"]).concat());
    }
}

/// Several authorities make the function of the sum of their keys, whatever the blinds.
#[test]
fn authorities_add_up_to_one_key() {
    let keys = [key(1), key(2), key(3)];
    let sum: Scalar = keys.iter().map(|key| key.secret.expose()).sum();
    let inputs: Vec<Vec<u8>> = [&b"a"[..], b"", b"ab"].map(<[u8]>::to_vec).to_vec();
    let expected: Vec<_> = inputs.iter().map(|input| direct(&sum, input)).collect();
    let all: Vec<_> = keys.iter().collect();
    assert_eq!(run(&blinder(1), &all, &inputs), expected);
    assert_eq!(run(&blinder(2), &all, &inputs), expected);
    // Every authority is needed.
    let two = run(&blinder(1), &[&keys[0], &keys[1]], &inputs);
    assert!(two.iter().zip(&expected).all(|(a, b)| a != b));
}

#[test]
fn a_repeated_batch_gets_the_same_bytes() {
    let inputs = [b"a", b"b"];
    let blinded = blinder(1).blind(&inputs).unwrap();
    assert_eq!(blinder(1).blind(&inputs).unwrap(), blinded);
    assert_ne!(blinder(2).blind(&inputs).unwrap(), blinded);
    assert_eq!(key(1).evaluate(&blinded).unwrap(), key(1).evaluate(&blinded).unwrap());
    // Another key of the same seed for another job.
    let other = EvaluationKey::derive(&Secret::new([1; 32]), b"jab").unwrap();
    assert_ne!(other.public(), key(1).public());
}

/// Every altered bit of an answer is refused, and so is an honest answer under another key, to another
/// batch, in another order or with another length.
#[test]
fn a_wrong_answer_is_refused() {
    let key = key(1);
    let inputs = [b"a", b"b"];
    let blinded = blinder(1).blind(&inputs).unwrap();
    let answer = key.evaluate(&blinded).unwrap();
    assert_eq!(answer.len(), 2 * ELEMENT_BYTES + PROOF_BYTES);
    let check = |answer: &[u8]| Evaluated::check(&key.public(), &blinded, answer).err();
    assert_eq!(check(&answer), None);
    for bit in 0..8 * answer.len() {
        let mut altered = answer.clone();
        altered[bit / 8] ^= 1 << (bit % 8);
        let why = check(&altered).unwrap();
        let element = bit / 256;
        let legal =
            matches!(why, OprfError::Proof) || (element < 2 && why == OprfError::Element(element));
        assert!(legal, "bit {bit}: {why:?}");
    }
    let (elements, proof) = answer.split_at(64);
    let swapped = [&elements[32..], &elements[..32], proof].concat();
    assert_eq!(check(&swapped), Some(OprfError::Proof));
    for wrong in [&answer[1..], &[&answer[..], &[0]].concat(), &answer[..96], &[]] {
        let got = wrong.len();
        assert_eq!(check(wrong), Some(OprfError::Length { expected: 128, got }));
    }
    let identity = [&[0; 32], &answer[32..]].concat();
    assert_eq!(check(&identity), Some(OprfError::Element(0)));

    let other = self::key(2);
    let under_other = other.evaluate(&blinded).unwrap();
    assert_eq!(check(&under_other), Some(OprfError::Proof));
    let other_batch = key.evaluate(&blinder(2).blind(&inputs).unwrap()).unwrap();
    assert_eq!(check(&other_batch), Some(OprfError::Proof));
    let by = |key: [u8; 32]| Evaluated::check(&PublicKey(key), &blinded, &answer).err();
    assert_eq!(by(other.public().0), Some(OprfError::Proof));
    assert_eq!(by([0; 32]), Some(OprfError::PublicKey));
    assert_eq!(by([255; 32]), Some(OprfError::PublicKey));
}

/// One element under another key hides among honest ones: the proof covers each of them.
#[test]
fn one_element_under_another_key_is_refused() {
    let inputs: Vec<_> = (0u8..20).map(|i| [i]).collect();
    let blinded = blinder(1).blind(&inputs).unwrap();
    let (honest, other) = (key(1), key(2));
    let evaluated = other.evaluate(&blinded).unwrap();
    for at in 0..inputs.len() {
        let mut answer = honest.evaluate(&blinded).unwrap();
        let place = at * ELEMENT_BYTES..(at + 1) * ELEMENT_BYTES;
        answer[place.clone()].copy_from_slice(&evaluated[place]);
        let refused = Evaluated::check(&honest.public(), &blinded, &answer).err();
        assert_eq!(refused, Some(OprfError::Proof));
    }
}

#[test]
fn answers_must_belong_together() {
    let (a, b) = (key(1), key(2));
    let keys = [a.public(), b.public()];
    let inputs = [b"a", b"b"];
    let blinded = blinder(1).blind(&inputs).unwrap();
    let other = blinder(1).blind(&[b"c", b"b"]).unwrap();
    let answer = |key: &EvaluationKey, blinded: &[u8]| {
        let bytes = key.evaluate(blinded).unwrap();
        Evaluated::check(&key.public(), blinded, &bytes).unwrap()
    };
    let finalise = |keys: &[PublicKey], answers: &[Evaluated]| {
        blinder(1).finalise(&inputs, &blinded, keys, answers).err()
    };
    let right = [answer(&a, &blinded), answer(&b, &blinded)];
    assert_eq!(finalise(&keys, &right), None);
    let wrong = Some(OprfError::Evaluations);
    assert_eq!(finalise(&keys, &right[..1]), wrong);
    assert_eq!(finalise(&[keys[1], keys[0]], &right), wrong);
    assert_eq!(finalise(&[keys[0], keys[0]], &right), wrong);
    assert_eq!(finalise(&[], &[]), wrong);
    assert_eq!(finalise(&keys, &[answer(&a, &blinded), answer(&b, &other)]), wrong);
    let longer = blinder(1).finalise(&[b"a", b"b", b"c"], &blinded, &keys, &right).err();
    assert_eq!(longer, wrong);
}

/// What a hostile party may send to an authority.
#[test]
fn a_wrong_batch_is_refused() {
    let key = key(1);
    let good = blinder(1).blind(&[b"a"]).unwrap();
    let refused = |batch: &[u8]| key.evaluate(batch).err();
    assert_eq!(refused(&[]), Some(OprfError::Batch(0)));
    assert_eq!(refused(&good[1..]), Some(OprfError::Length { expected: 0, got: 31 }));
    let long = [&good[..], &[7]].concat();
    assert_eq!(refused(&long), Some(OprfError::Length { expected: 32, got: 33 }));
    assert_eq!(refused(&[&good[..], &[0; 32]].concat()), Some(OprfError::Element(1)));
    assert_eq!(refused(&[&good[..], &[255; 32]].concat()), Some(OprfError::Element(1)));
    assert_eq!(refused(&good.repeat(MAX_BATCH + 1)), Some(OprfError::Batch(MAX_BATCH + 1)));
}

#[test]
fn inputs_have_limits() {
    let longest = vec![7; 65_535];
    assert_eq!(
        run(&blinder(1), &[&key(1)], std::slice::from_ref(&longest)),
        [direct(key(1).secret.expose(), &longest)]
    );
    assert_eq!(blinder(1).blind(&[vec![], vec![7; 65_536]]).err(), Some(OprfError::Input(1)));
    assert_eq!(blinder(1).blind::<[u8; 1]>(&[]).err(), Some(OprfError::Batch(0)));
    let many = vec![[0u8; 1]; MAX_BATCH + 1];
    assert_eq!(blinder(1).blind(&many).err(), Some(OprfError::Batch(MAX_BATCH + 1)));
    let info = vec![0; 65_536];
    let key = EvaluationKey::derive(&Secret::new([1; 32]), &info);
    assert_eq!(key.err(), Some(OprfError::Input(0)));
}

/// A blind belongs to its input: mixed-up batches share no blind.
#[test]
fn different_inputs_never_share_a_blind() {
    let blinder = blinder(1);
    let mut blinds = blinder.blinds(&[&b"a"[..], b"b", b"ab", b""]);
    let all: std::collections::BTreeSet<_> =
        blinds.expose_mut().iter().map(Scalar::to_bytes).collect();
    assert_eq!(all.len(), 4);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 16, ..ProptestConfig::default() })]

    #[test]
    fn the_exchange_gives_the_function(
        inputs in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..40), 1..6),
        seed: [u8; 32],
        authorities in proptest::collection::vec(any::<[u8; 32]>(), 1..4),
    ) {
        let keys: Vec<_> = authorities
            .into_iter()
            .map(|seed| EvaluationKey::derive(&Secret::new(seed), b"").unwrap())
            .collect();
        let sum: Scalar = keys.iter().map(|key| key.secret.expose()).sum();
        let outputs = run(&Blinder::new(Secret::new(seed)), &keys.iter().collect::<Vec<_>>(), &inputs);
        let expected: Vec<_> = inputs.iter().map(|input| direct(&sum, input)).collect();
        prop_assert_eq!(outputs, expected);
    }

    #[test]
    fn any_bytes_are_refused_without_a_panic(
        batch in proptest::collection::vec(any::<u8>(), 0..200),
        answer in proptest::collection::vec(any::<u8>(), 0..200),
        public: [u8; 32],
    ) {
        let _ = key(1).evaluate(&batch);
        prop_assert!(Evaluated::check(&PublicKey(public), &batch, &answer).is_err());
        let sent = blinder(1).blind(&[b"a"]).unwrap();
        prop_assert!(Evaluated::check(&key(1).public(), &sent, &answer).is_err());
    }
}
