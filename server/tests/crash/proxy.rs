//! A TCP proxy that keeps every byte that passes, and the HTTP/1.1 messages in what it kept.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};

/// Bytes of one direction of one connection.
type Tape = Arc<Mutex<Vec<u8>>>;

/// A running proxy.
pub(crate) struct Proxy {
    /// Where clients connect.
    pub(crate) url: String,
    connections: Arc<Mutex<Vec<(Tape, Tape)>>>,
}

/// A request with the answer to it.
pub(crate) struct Exchange {
    /// Such as `GET /v1/authority HTTP/1.1`.
    pub(crate) request: String,
    /// Such as `HTTP/1.1 200 OK`.
    pub(crate) status: String,
    /// Body of the answer.
    pub(crate) answer: Vec<u8>,
}

impl Proxy {
    /// A proxy in front of `upstream`, which may come and go.
    pub(crate) async fn start(upstream: SocketAddr) -> anyhow::Result<Self> {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
        let url = format!("http://{}", listener.local_addr()?);
        let connections: Arc<Mutex<Vec<(Tape, Tape)>>> = Arc::default();
        let kept = Arc::clone(&connections);
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                // A refused connection closes the client's, as if the service were reached directly.
                let Ok(server) = TcpStream::connect(upstream).await else {
                    continue;
                };
                let (up, down) = (Tape::default(), Tape::default());
                kept.lock().unwrap().push((Arc::clone(&up), Arc::clone(&down)));
                let ((from_client, to_client), (from_server, to_server)) =
                    (client.into_split(), server.into_split());
                tokio::spawn(pump(from_client, to_server, up));
                tokio::spawn(pump(from_server, to_client, down));
            }
        });
        Ok(Self { url, connections })
    }

    /// Every complete exchange so far.
    pub(crate) fn exchanges(&self) -> Vec<Exchange> {
        let connections = self.connections.lock().unwrap();
        let mut all = Vec::new();
        for (up, down) in connections.iter() {
            let requests = messages(&up.lock().unwrap());
            let answers = messages(&down.lock().unwrap());
            for ((request, _), (status, answer)) in requests.into_iter().zip(answers) {
                all.push(Exchange { request, status, answer });
            }
        }
        all
    }
}

/// Records before it forwards, so that nothing is delivered that is not on the tape.
async fn pump(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, tape: Tape) {
    let mut buffer = vec![0; 64 << 10];
    while let Ok(count @ 1..) = from.read(&mut buffer).await {
        tape.lock().unwrap().extend_from_slice(&buffer[..count]);
        if to.write_all(&buffer[..count]).await.is_err() {
            break;
        }
    }
    let _ = to.shutdown().await;
}

/// Start line and body of each complete message; interim answers are left out.
fn messages(mut rest: &[u8]) -> Vec<(String, Vec<u8>)> {
    let mut out = Vec::new();
    while let Some((start, body, after)) = message(rest) {
        if !start.starts_with("HTTP/1.1 1") {
            out.push((start, body));
        }
        rest = after;
    }
    out
}

fn message(bytes: &[u8]) -> Option<(String, Vec<u8>, &[u8])> {
    let (head, rest) = split_at(bytes, b"\r\n\r\n")?;
    let head = String::from_utf8_lossy(head);
    let mut lines = head.split("\r\n");
    let start = lines.next()?.to_owned();
    let header = |name: &str| {
        head.split("\r\n").find_map(|line| {
            let (key, value) = line.split_once(':')?;
            key.eq_ignore_ascii_case(name).then(|| value.trim().to_owned())
        })
    };
    if header("transfer-encoding").is_some_and(|value| value.eq_ignore_ascii_case("chunked")) {
        let (body, rest) = dechunk(rest)?;
        return Some((start, body, rest));
    }
    let length = header("content-length").map_or(Some(0), |value| value.parse().ok())?;
    let (body, rest) = rest.split_at_checked(length)?;
    Some((start, body.to_vec(), rest))
}

fn dechunk(mut rest: &[u8]) -> Option<(Vec<u8>, &[u8])> {
    let mut body = Vec::new();
    loop {
        let (size, after) = split_at(rest, b"\r\n")?;
        let size = std::str::from_utf8(size).ok()?.split(';').next()?.trim();
        let size = usize::from_str_radix(size, 16).ok()?;
        let (chunk, after) = after.split_at_checked(size)?;
        body.extend_from_slice(chunk);
        rest = after.strip_prefix(b"\r\n")?;
        if size == 0 {
            return Some((body, rest));
        }
    }
}

fn split_at<'a>(bytes: &'a [u8], mark: &[u8]) -> Option<(&'a [u8], &'a [u8])> {
    let at = bytes.windows(mark.len()).position(|window| window == mark)?;
    Some((&bytes[..at], &bytes[at + mark.len()..]))
}

#[test]
fn whole_messages_are_read_and_cut_ones_are_not() {
    let tape = b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\nabc\
        HTTP/1.1 204 No Content\r\n\r\n\
        HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n2;x=y\r\nde\r\n0\r\n\r\n\
        HTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\nab";
    let read = messages(tape);
    let bodies: Vec<&[u8]> = read.iter().map(|(_, body)| body.as_slice()).collect();
    assert_eq!(bodies, [&b"abc"[..], b"", b"abcde"]);
    assert_eq!(read[1].0, "HTTP/1.1 204 No Content");
}
