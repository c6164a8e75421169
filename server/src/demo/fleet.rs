//! The processes of a deployment on this machine: authorities, one aggregator, banks.

use std::ffi::OsString;
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use quorate_client::api::Hex32;
use serde::Deserialize;

use super::supervisor::{Service, any_port};

/// Tenant of deployments on loopback.
const TENANT: &str = "demo";

/// The processes. All are killed when this value is dropped.
#[derive(Debug)]
pub struct Fleet {
    program: PathBuf,
    folder: PathBuf,
    /// Key authorities.
    pub authorities: Vec<Service>,
    /// The aggregator.
    pub aggregator: Service,
    /// The banks that were added, in order.
    pub banks: Vec<Service>,
}

impl Fleet {
    /// A free address of the loopback interface, for an aggregator that its authorities have to know
    /// before it runs.
    ///
    /// # Errors
    /// When the system has none.
    pub fn reserve() -> anyhow::Result<SocketAddr> {
        Ok(TcpListener::bind(any_port())?.local_addr()?)
    }

    /// Starts `authorities` key authorities of `program`, with stores and logs under `folder`.
    ///
    /// # Errors
    /// When one does not start.
    pub async fn authorities(
        program: &Path,
        folder: &Path,
        authorities: usize,
    ) -> anyhow::Result<Vec<Service>> {
        Self::authorities_of(program, folder, authorities, None).await
    }

    /// As [`Fleet::authorities`], with authorities that fetch the replies of threshold jobs from an
    /// aggregator at `aggregator`, which need not run yet.
    ///
    /// # Errors
    /// When one does not start.
    pub async fn authorities_of(
        program: &Path,
        folder: &Path,
        authorities: usize,
        aggregator: Option<SocketAddr>,
    ) -> anyhow::Result<Vec<Service>> {
        let mut services = Vec::with_capacity(authorities);
        for letter in ('a'..='z').take(authorities) {
            let name = format!("authority-{letter}");
            let mut args = words(&["authority", "--name", &name, "--tenant", TENANT]);
            if let Some(aggregator) = aggregator {
                args.extend(words(&["--aggregator", &format!("http://{aggregator}")]));
            }
            let log = own_folder(folder, &name, &mut args)?;
            let mut service = Service::listening(program, &name, args, log);
            service.start().await?;
            services.push(service);
        }
        Ok(services)
    }

    /// Starts an aggregator, which reaches its authorities at `urls`.
    ///
    /// # Errors
    /// When it does not start.
    pub async fn start(
        program: &Path,
        folder: &Path,
        authorities: Vec<Service>,
        urls: &[String],
    ) -> anyhow::Result<Self> {
        Self::start_at(program, folder, authorities, urls, None).await
    }

    /// Starts what a threshold job needs: one authority, which fetches ciphertexts at its aggregator,
    /// and that aggregator.
    ///
    /// # Errors
    /// When one does not start, or another process takes the aggregator's port before it does.
    pub async fn threshold(program: &Path, folder: &Path) -> anyhow::Result<Self> {
        let address = Some(Self::reserve()?);
        let authorities = Self::authorities_of(program, folder, 1, address).await?;
        let urls = authorities.iter().map(Service::url).collect::<anyhow::Result<Vec<_>>>()?;
        Self::start_at(program, folder, authorities, &urls, address).await
    }

    /// As [`Fleet::start`], with the aggregator at `address`, which [`Fleet::reserve`] chose.
    ///
    /// # Errors
    /// When it does not start.
    pub async fn start_at(
        program: &Path,
        folder: &Path,
        authorities: Vec<Service>,
        urls: &[String],
        address: Option<SocketAddr>,
    ) -> anyhow::Result<Self> {
        let mut args = words(&["aggregator", "--tenant", TENANT]);
        let log = own_folder(folder, "aggregator", &mut args)?;
        for url in urls {
            args.extend(words(&["--authority", url]));
        }
        let mut aggregator = Service::listening(program, "aggregator", args, log);
        if let Some(address) = address {
            aggregator = aggregator.at(address);
        }
        aggregator.start().await?;
        let (program, folder) = (program.to_owned(), folder.to_owned());
        Ok(Self { program, folder, authorities, aggregator, banks: Vec::new() })
    }

    /// Adds a bank that takes part in `job` with the rows of `data` and `options` beside; it is not
    /// started yet.
    ///
    /// # Errors
    /// When its folder cannot be made.
    pub fn add_bank(
        &mut self,
        name: &str,
        data: &Path,
        job: Hex32,
        options: &[&str],
    ) -> anyhow::Result<()> {
        let mut args = words(&["party", "--json", "--name", name, "--job", &job.to_string()]);
        args.extend(words(&["--aggregator", &self.aggregator.url()?, "--data"]));
        args.push(data.into());
        args.extend(words(options));
        for authority in &self.authorities {
            args.extend(words(&["--authority", &authority.url()?]));
        }
        let log = own_folder(&self.folder, name, &mut args)?;
        self.banks.push(Service::connecting(&self.program, name, args, log));
        Ok(())
    }

    /// All processes.
    pub fn services(&mut self) -> impl Iterator<Item = &mut Service> {
        self.authorities.iter_mut().chain([&mut self.aggregator]).chain(&mut self.banks)
    }

    /// Milliseconds that the slowest bank spent in `round` on training, and on encrypting and
    /// sending, as the banks themselves report.
    #[must_use]
    pub fn spent(&self, round: u32) -> (f64, f64) {
        let (mut train, mut send) = (0.0f64, 0.0f64);
        for bank in &self.banks {
            // A restarted bank reports some things twice: the last report counts.
            let (mut trained, mut sealed, mut sent) = (0.0, 0.0, 0.0);
            for event in events(bank, round) {
                match event.event.as_str() {
                    "trained" => trained = event.ms,
                    "sealed" => sealed = event.ms,
                    "receipt" => sent = event.ms,
                    _ => {}
                }
            }
            train = train.max(trained);
            send = send.max(sealed + sent);
        }
        (train, send)
    }

    /// Name and bytes of each partial decryption that banks made in `round`, as they report.
    #[must_use]
    pub fn shares(&self, round: u32) -> Vec<(String, u64)> {
        let share = |bank: &Service| {
            let shared = events(bank, round).into_iter().rfind(|event| event.event == "shared")?;
            Some((bank.name().to_owned(), shared.bytes))
        };
        self.banks.iter().filter_map(share).collect()
    }

    /// Hash of the final model, or of its own part of it, that each bank reported at its end.
    #[must_use]
    pub fn states(&self) -> Vec<Option<Hex32>> {
        let state = |bank: &Service| {
            let log = bank.log();
            let mut ends = log.lines().filter_map(|line| serde_json::from_str::<End>(line).ok());
            ends.rfind(|end| end.event == "finished").map(|end| end.state)
        };
        self.banks.iter().map(state).collect()
    }

    /// Waits until every bank ended, by itself and well.
    ///
    /// # Errors
    /// When one failed, or works on after `patience`.
    pub async fn end(&mut self, patience: Duration) -> anyhow::Result<()> {
        let give_up = Instant::now() + patience;
        loop {
            self.check()?;
            let working = self.banks.iter().find(|bank| bank.pid().is_some());
            match working {
                None => return Ok(()),
                Some(bank) if Instant::now() > give_up => {
                    bail!("{} does not end\n{}", bank.name(), bank.log_tail())
                }
                Some(_) => tokio::time::sleep(Duration::from_millis(20)).await,
            }
        }
    }

    /// Refuses to go on after a process that failed by itself.
    ///
    /// # Errors
    /// Its name, status and the end of its log.
    pub fn check(&mut self) -> anyhow::Result<()> {
        for service in self.services() {
            if let Some(status) = service.ended()?
                && !status.success()
            {
                bail!("{} ended with {status}\n{}", service.name(), service.log_tail());
            }
        }
        Ok(())
    }
}

/// What is read of a bank's report.
#[derive(Debug, Deserialize)]
struct Event {
    event: String,
    round: u32,
    ms: f64,
    #[serde(default)]
    bytes: u64,
}

/// What is read of a bank's last report.
#[derive(Debug, Deserialize)]
struct End {
    event: String,
    state: Hex32,
}

/// What a bank reported of `round`, in order.
fn events(bank: &Service, round: u32) -> Vec<Event> {
    let log = bank.log();
    let all = log.lines().filter_map(|line| serde_json::from_str::<Event>(line).ok());
    all.filter(|event| event.round == round).collect()
}

fn words(words: &[&str]) -> Vec<OsString> {
    words.iter().map(OsString::from).collect()
}

/// Makes the folder of a process, names its store in `args` and returns the path of its log.
fn own_folder(folder: &Path, name: &str, args: &mut Vec<OsString>) -> anyhow::Result<PathBuf> {
    let own = folder.join(name);
    std::fs::create_dir_all(&own).with_context(|| format!("cannot create {}", own.display()))?;
    args.extend([OsString::from("--store"), own.join("store").into()]);
    Ok(own.join("log.txt"))
}
