//! Child processes of this same binary: started, killed with SIGKILL, started again on the same
//! port and the same store.

use std::ffi::OsString;
use std::fs::{File, OpenOptions};
use std::io::{Read, Seek, SeekFrom};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};

/// What a service prints, followed by its address, once it accepts connections.
const LISTENING: &str = "listening on ";

/// Longest time until a service listens.
const START: Duration = Duration::from_secs(30);

/// Bytes of a log that are shown when its process fails.
const TAIL_BYTES: u64 = 2000;

/// One child process, killed when this value is dropped.
///
/// Output goes to a log file, which restarts append to.
#[derive(Debug)]
pub struct Service {
    name: String,
    program: PathBuf,
    args: Vec<OsString>,
    log: PathBuf,
    /// Where it listens; `None` for a process without a socket.
    listen: Option<SocketAddr>,
    child: Option<Child>,
}

impl Service {
    /// A process that listens: `args` and then `--listen` on a free port of the loopback interface,
    /// the same port after every restart.
    #[must_use]
    pub fn listening(program: &Path, name: &str, args: Vec<OsString>, log: PathBuf) -> Self {
        Self::connecting(program, name, args, log).at(any_port())
    }

    /// This process, listening at `address`.
    #[must_use]
    pub const fn at(mut self, address: SocketAddr) -> Self {
        self.listen = Some(address);
        self
    }

    /// A process that only connects to others.
    #[must_use]
    pub fn connecting(program: &Path, name: &str, args: Vec<OsString>, log: PathBuf) -> Self {
        let (name, program) = (name.to_owned(), program.to_owned());
        Self { name, program, args, log, listen: None, child: None }
    }

    /// Its name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Where it listens.
    ///
    /// # Errors
    /// When it is a process without a socket.
    pub fn address(&self) -> anyhow::Result<SocketAddr> {
        self.listen.with_context(|| format!("{} does not listen", self.name))
    }

    /// Where it listens, if it does.
    #[must_use]
    pub const fn address_known(&self) -> Option<SocketAddr> {
        self.listen
    }

    /// Its base URL.
    ///
    /// # Errors
    /// As [`Service::address`].
    pub fn url(&self) -> anyhow::Result<String> {
        Ok(format!("http://{}", self.address()?))
    }

    /// Starts the process, unless it runs; for one that listens, waits until it does.
    ///
    /// # Errors
    /// When the process cannot be started, ends at once or does not listen in time; with the end of
    /// its log.
    pub async fn start(&mut self) -> anyhow::Result<()> {
        if self.ended()?.is_none() && self.child.is_some() {
            return Ok(());
        }
        let log = OpenOptions::new()
            .create(true)
            .append(true)
            .open(&self.log)
            .with_context(|| format!("cannot write {}", self.log.display()))?;
        let from = log.metadata()?.len();
        let mut command = Command::new(&self.program);
        command.args(&self.args).stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        if let Some(listen) = self.listen {
            command.arg("--listen").arg(listen.to_string());
        }
        let child =
            command.spawn().with_context(|| format!("cannot run {}", self.program.display()))?;
        self.child = Some(child);
        if self.listen.is_some() {
            self.listen = Some(self.wait_until_listening(from).await?);
        }
        Ok(())
    }

    async fn wait_until_listening(&mut self, from: u64) -> anyhow::Result<SocketAddr> {
        let give_up = Instant::now() + START;
        loop {
            if let Some(address) = listening_in(&read_from(&self.log, from)?) {
                return Ok(address);
            }
            if let Some(status) = self.ended()? {
                bail!("{} ended with {status}\n{}", self.name, self.log_tail());
            }
            if Instant::now() > give_up {
                bail!(
                    "{} did not listen within {} s\n{}",
                    self.name,
                    START.as_secs(),
                    self.log_tail()
                );
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    /// The exit status, if the process ended by itself.
    ///
    /// # Errors
    /// When the system does not say.
    pub fn ended(&mut self) -> anyhow::Result<Option<ExitStatus>> {
        let Some(child) = &mut self.child else {
            return Ok(None);
        };
        let status = child.try_wait().with_context(|| format!("cannot ask after {}", self.name))?;
        if status.is_some() {
            self.child = None;
        }
        Ok(status)
    }

    /// Whether the process was started and neither ended nor was killed.
    #[must_use]
    pub fn running(&mut self) -> bool {
        matches!(self.ended(), Ok(None)) && self.child.is_some()
    }

    /// Its process, if it was started and is not known to be over.
    #[must_use]
    pub fn pid(&self) -> Option<u32> {
        self.child.as_ref().map(Child::id)
    }

    /// SIGKILL; returns when the process is gone.
    pub fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            // Both fail only for a process that is gone already.
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    /// SIGKILL and start again.
    ///
    /// # Errors
    /// As [`Service::start`].
    pub async fn restart(&mut self) -> anyhow::Result<()> {
        self.kill();
        self.start().await
    }

    /// All of its output so far; empty before its first start.
    #[must_use]
    pub fn log(&self) -> String {
        read_from(&self.log, 0).unwrap_or_default()
    }

    /// The end of the log, for error messages.
    #[must_use]
    pub fn log_tail(&self) -> String {
        let len = std::fs::metadata(&self.log).map_or(0, |meta| meta.len());
        let tail = read_from(&self.log, len.saturating_sub(TAIL_BYTES)).unwrap_or_default();
        format!("{} ends with:\n{}", self.log.display(), tail.trim_end())
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        self.kill();
    }
}

/// A free port of the loopback interface.
#[must_use]
pub fn any_port() -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], 0))
}

fn read_from(path: &Path, from: u64) -> anyhow::Result<String> {
    let mut bytes = Vec::new();
    let mut file = File::open(path).with_context(|| format!("cannot read {}", path.display()))?;
    file.seek(SeekFrom::Start(from))?;
    file.read_to_end(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// The first complete address after [`LISTENING`], with or without `http://` before it.
fn listening_in(log: &str) -> Option<SocketAddr> {
    log.split_inclusive('\n').filter(|line| line.ends_with('\n')).find_map(|line| {
        let (_, after) = line.split_once(LISTENING)?;
        let after = after.strip_prefix("http://").unwrap_or(after);
        let legal = |c: &char| c.is_ascii_hexdigit() || ".:[]".contains(*c);
        after.chars().take_while(legal).collect::<String>().parse().ok()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_address_is_read_from_a_whole_line_of_text_or_json() {
        let expected = Some(SocketAddr::from(([127, 0, 0, 1], 4711)));
        assert_eq!(listening_in("x\nlistening on 127.0.0.1:4711\n"), expected);
        assert_eq!(listening_in("INFO listening on http://127.0.0.1:4711 as a\n"), expected);
        assert_eq!(listening_in("{\"message\":\"listening on 127.0.0.1:4711\"}\n"), expected);
        assert_eq!(listening_in("listening on 127.0.0.1:47"), None);
        assert_eq!(listening_in("not listening\n"), None);
    }

    #[tokio::test]
    async fn a_process_that_fails_is_named_with_its_log() {
        let folder = tempfile::tempdir().unwrap();
        let log = folder.path().join("x.log");
        let args = vec!["-c".into(), "echo no store here; exit 3".into()];
        let mut service = Service::listening(Path::new("/bin/sh"), "x", args, log);
        let error = service.start().await.unwrap_err().to_string();
        assert!(error.contains("x ended") && error.contains("no store here"), "{error}");
    }

    #[tokio::test]
    async fn killing_and_starting_again_appends_to_the_log() {
        let folder = tempfile::tempdir().unwrap();
        let log = folder.path().join("x.log");
        let script = "echo listening on 127.0.0.1:4711; exec sleep 600";
        let args = vec!["-c".into(), script.into()];
        let mut service = Service::listening(Path::new("/bin/sh"), "x", args, log.clone());
        service.start().await.unwrap();
        assert!(service.running());
        assert_eq!(service.url().unwrap(), "http://127.0.0.1:4711");
        service.kill();
        assert!(!service.running());
        service.restart().await.unwrap();
        assert!(service.running());
        assert_eq!(std::fs::read_to_string(log).unwrap().matches(LISTENING).count(), 2);
    }
}
