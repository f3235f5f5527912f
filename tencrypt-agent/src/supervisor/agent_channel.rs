//! The agent's channel while the program runs: what comes over it, what is said, and the agents that take it over.

use std::{
    io,
    os::unix::net::UnixStream as StdStream,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use rustix::net::{Shutdown, shutdown};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{
        UnixStream,
        unix::{OwnedReadHalf, OwnedWriteHalf},
    },
    sync::mpsc,
    task::JoinHandle,
};

use crate::{
    control::server::Asked,
    keys::material::Material,
    lane::pod_status::{Shared, read},
    node::{
        End, HEADER_LEN, Header, Kind, Message, Payload, Pod, Versions,
        said::{Hello, PodReport, Said},
    },
    report::{IdentityReport, RenewalReason},
};

/// Words of the agent's that wait for the supervisor. The others wait in the socket.
const WORDS: usize = 16;

/// Messages that wait for an agent to read them. More are not said, and counted.
const SAID: usize = 256;

/// The time that an agent has to read the last word.
const LAST_WORD: Duration = Duration::from_millis(100);

/// A word of the agent's, or about it.
#[derive(Debug)]
pub(super) enum Word {
    /// Keys, certificate or revocation.
    Material(Box<Material>),
    /// Facts, as JSON.
    Facts(Vec<u8>),
    /// Everything was named.
    Complete,
    /// Keys are to be made anew.
    Renew(RenewalReason),
    /// The status is wanted.
    Report,
    /// The program is to end.
    End(End),
    /// Another agent has begun, or the same one anew.
    Adopted,
    /// The agent has gone.
    Gone,
}

/// The channel, and the pod that it is about.
#[derive(Debug)]
pub(super) struct AgentChannel {
    about: Arc<About>,
    connection: Option<Connection>,
    /// An agent that has adopted the program and has not said `hello` yet.
    next: Option<Connection>,
    /// The agent before: what it had sent is read to its end, for one word of it counts whoever comes after.
    former: Option<Connection>,
    adoptions: mpsc::Receiver<StdStream>,
    lost: Lost,
}

/// The number of messages that were not said for want of a reader.
type Lost = Arc<AtomicU64>;

/// The way to the agent. What it does not read it does not hear: nobody waits for it.
#[derive(Debug, Clone)]
struct Speaker {
    frames: mpsc::Sender<Vec<u8>>,
    lost: Lost,
}

impl Speaker {
    /// Says something, or counts it as lost.
    fn say(&self, said: &Said) {
        if self.frames.try_send(said.frame()).is_err() {
            self.lost.fetch_add(1, Ordering::Relaxed);
        }
    }
}

/// The pod, by which a program introduces itself to a later agent.
#[derive(Debug)]
pub(super) struct About {
    /// The pod, as the agent that started the program calls it.
    pub(super) pod: Pod,
    /// The id of its namespace.
    pub(super) namespace: String,
    /// The pod's identity, as it is at the time.
    pub(super) identity: Shared<IdentityReport>,
}

impl About {
    fn report(&self) -> PodReport {
        let Pod { name, tag } = self.pod.clone();
        let public_key = read(&self.identity).public_key;
        PodReport { name, tag, namespace: self.namespace.clone(), public_key }
    }
}

/// A channel with an agent at its other end.
#[derive(Debug)]
struct Connection {
    words: mpsc::Receiver<Word>,
    speaker: Speaker,
    stream: StdStream,
    tasks: [JoinHandle<()>; 2],
    status: Option<JoinHandle<()>>,
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.tasks.iter().chain(&self.status).for_each(JoinHandle::abort);
        self.close();
    }
}

impl AgentChannel {
    /// Goes on with the channel over which everything was given; `adoptions` are the channels of later agents. Must be called
    /// within a tokio runtime.
    ///
    /// # Errors
    /// The descriptor cannot be waited for.
    pub(super) fn new(
        about: About,
        stream: StdStream,
        adoptions: mpsc::Receiver<StdStream>,
    ) -> io::Result<Self> {
        let lost = Lost::default();
        let connection = Some(Connection::new(stream, None, lost.clone())?);
        Ok(Self { about: Arc::new(about), connection, next: None, former: None, adoptions, lost })
    }

    /// Returns true if an agent is there.
    pub(super) fn is_connected(&self) -> bool {
        self.connection.is_some()
    }

    /// Waits for the agent's next word, for ever where there is none. May be cancelled. The newest agent that has said a good
    /// `hello` counts: the channel of the one before is closed.
    pub(super) async fn next(&mut self) -> Word {
        loop {
            tokio::select! {
                Some(stream) = self.adoptions.recv() => self.await_hello(stream),
                word = next_word(self.next.as_mut()) => match (word, self.next.take()) {
                    (Some(word), Some(next)) => {
                        self.replace(next);
                        return word;
                    }
                    (_, refused) => finish(refused),
                },
                word = next_word(self.former.as_mut()) => match word {
                    // Whoever comes after: keys that are to be made anew must be.
                    Some(Word::Renew(reason)) => return Word::Renew(reason),
                    Some(_) => {}
                    None => self.former = None,
                },
                word = next_word(self.connection.as_mut()) => match word {
                    Some(word) => return word,
                    None => {
                        finish(self.connection.take());
                        return Word::Gone;
                    }
                },
            }
        }
    }

    /// Reads the channel of a later agent, which is to say `hello` first.
    fn await_hello(&mut self, stream: StdStream) {
        match Connection::new(stream, Some(self.about.clone()), self.lost.clone()) {
            Ok(connection) => self.next = Some(connection),
            Err(error) => tracing::warn!(%error, "a channel of the agent"),
        }
    }

    /// Goes on with a later agent.
    fn replace(&mut self, next: Connection) {
        let former = self.connection.replace(next);
        if let Some(former) = &former {
            former.close();
        }
        // Of two that go at once the one that was there longer has been read by now.
        self.former = former.or(self.former.take());
    }

    /// Says something, if anybody is there.
    pub(super) fn say(&self, said: &Said) {
        if let Some(connection) = &self.connection {
            connection.speaker.say(said);
        }
    }

    /// Has the status asked for and said. False: the one before has not been said yet.
    pub(super) fn say_status(&mut self, asked: &Asked) -> bool {
        let Some(connection) = &mut self.connection else { return true };
        if connection.status.as_ref().is_some_and(|task| !task.is_finished()) {
            return false;
        }
        let (asked, said, lost) = (asked.clone(), connection.speaker.frames.clone(), self.lost.clone());
        connection.status = Some(tokio::spawn(async move {
            let mut report = match asked.status().await {
                Ok(report) => report,
                Err(error) => {
                    let refused = Said::Refused { message: "report".to_owned(), reason: error.to_string() };
                    let _ = said.send(refused.frame()).await;
                    return;
                }
            };
            let peers = std::mem::take(&mut report.peers).len();
            let lost = lost.load(Ordering::Relaxed);
            // Waits for a place, in place of everybody else.
            let _ = said.send(Said::Status { report, peers, lost }.frame()).await;
        }));
        true
    }

    /// Says the last word, and waits a moment for it to be written.
    pub(super) async fn end(self, said: &Said) {
        self.say(said);
        if let Some(connection) = self.connection {
            connection.finish().await;
        }
    }
}

/// Closes a connection once what was said over it is written.
fn finish(connection: Option<Connection>) {
    if let Some(connection) = connection {
        tokio::spawn(connection.finish());
    }
}

/// Waits for a word, for ever without a connection; `None`: the agent has gone.
async fn next_word(connection: Option<&mut Connection>) -> Option<Word> {
    match connection {
        Some(connection) => connection.words.recv().await,
        None => std::future::pending().await,
    }
}

impl Connection {
    /// Reads and writes `stream`. An agent that has adopted the program begins with `hello`, and hears `about` the pod.
    fn new(stream: StdStream, about: Option<Arc<About>>, lost: Lost) -> io::Result<Self> {
        stream.set_nonblocking(true)?;
        let kept = stream.try_clone()?;
        let (reading, writing) = UnixStream::from_std(stream)?.into_split();
        let (words, received) = mpsc::channel(WORDS);
        let (frames, to_say) = mpsc::channel(SAID);
        let speaker = Speaker { frames, lost };
        let reader = Reader { stream: reading, words, speaker: speaker.clone() };
        let tasks = [tokio::spawn(reader.run(about)), tokio::spawn(write(writing, to_say))];
        Ok(Self { words: received, speaker, stream: kept, tasks, status: None })
    }

    /// Lets the agent know that it is heard no more, whoever else holds a copy of the descriptor. What it has sent until now
    /// can be read still.
    fn close(&self) {
        let _ = shutdown(&self.stream, Shutdown::Both);
    }

    /// Waits a moment for what was said to be written.
    async fn finish(mut self) {
        let (nobody, _) = mpsc::channel(1);
        self.speaker.frames = nobody;
        let [reading, writing] = &mut self.tasks;
        self.status.iter().chain([&*reading]).for_each(JoinHandle::abort);
        let _ = tokio::time::timeout(LAST_WORD, writing).await;
    }
}

/// Writes what is said, until nobody is left who says anything.
async fn write(mut stream: OwnedWriteHalf, mut said: mpsc::Receiver<Vec<u8>>) {
    while let Some(frame) = said.recv().await {
        if stream.write_all(&frame).await.is_err() {
            return;
        }
    }
}

/// Reads the agent's messages, until the channel ends.
struct Reader {
    stream: OwnedReadHalf,
    words: mpsc::Sender<Word>,
    speaker: Speaker,
}

impl Reader {
    async fn run(mut self, about: Option<Arc<About>>) {
        if let Err(reason) = self.read(about).await {
            tracing::warn!(reason, "the agent's channel is closed");
            self.refuse("channel", reason);
        }
    }

    /// Reads until the agent goes, or sends what makes no sense.
    async fn read(&mut self, about: Option<Arc<About>>) -> Result<(), String> {
        if let Some(about) = about {
            match self.next().await? {
                Some(Message::Hello(versions)) => self.greet(versions, &about).await?,
                Some(_) => return Err("the first message is no `hello`".to_owned()),
                None => return Ok(()),
            }
        }
        while let Some(message) = self.next().await? {
            if let Err(kind) = self.pass_on(message).await {
                self.refuse(kind.as_str(), "it counts at the start alone".to_owned());
            }
        }
        Ok(())
    }

    /// Answers the `hello` of an agent that has adopted the program.
    async fn greet(&self, versions: Versions, about: &About) -> Result<(), String> {
        let Versions { oldest, newest } = versions;
        let protocol =
            versions.common().ok_or_else(|| format!("versions {oldest} to {newest} are not spoken here"))?;
        let program = env!("CARGO_PKG_VERSION").to_owned();
        let (pid, pod) = (std::process::id(), Some(about.report()));
        self.speaker.say(&Said::Hello(Hello { protocol, program, pid, pod }));
        let _ = self.words.send(Word::Adopted).await;
        Ok(())
    }

    /// Reads the next message; `None`: the agent has gone.
    async fn next(&mut self) -> Result<Option<Message>, String> {
        let mut header = [0; HEADER_LEN];
        if self.stream.read_exact(&mut header).await.is_err() {
            return Ok(None);
        }
        let header = Header::parse(header).map_err(|error| error.to_string())?;
        let mut payload = Payload::of(header);
        if self.stream.read_exact(&mut payload).await.is_err() {
            return Ok(None);
        }
        Message::parse(header.kind, &payload).map(Some).map_err(|error| error.to_string())
    }

    /// Passes a message on to the supervisor; the kind of one that has no place here is an error.
    async fn pass_on(&self, message: Message) -> Result<(), Kind> {
        let word = match message {
            Message::Material(material) => Word::Material(Box::new(material)),
            Message::Facts(text) => Word::Facts(text),
            Message::Complete => Word::Complete,
            Message::Renew(reason) => Word::Renew(reason),
            Message::Report => Word::Report,
            Message::End(end) => Word::End(end),
            Message::Hello(_) => return Err(Kind::Hello),
            Message::Pod(_) => return Err(Kind::Pod),
            Message::Config(_) => return Err(Kind::Config),
            Message::Authority(_) => return Err(Kind::Authority),
            Message::ResolvConf(_) => return Err(Kind::ResolvConf),
        };
        // The supervisor ends this task when it does not want to hear any more.
        let _ = self.words.send(word).await;
        Ok(())
    }

    fn refuse(&self, message: &'static str, reason: String) {
        self.speaker.say(&Said::Refused { message: message.to_owned(), reason });
    }
}
