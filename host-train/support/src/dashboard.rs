//! The dashboard as training sees it: a program of its own (`mote-train-dashboard`) that draws on the terminal what it is
//! told line by line, and says which keys were pressed. If it ends, training goes on; if training ends, it gives the
//! terminal back.

use std::io::{BufRead, BufReader, IsTerminal, Write};
use std::path::Path;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};

/// What a dashboard is told; a line each.
#[derive(Debug, Clone, PartialEq)]
pub enum Message {
    /// A training begins.
    Begin {
        /// Steps to do.
        steps: u64,
        /// What is trained.
        title: String,
    },
    /// A step was done before this program began.
    Before {
        /// Steps done with it.
        step: u64,
        /// Its loss.
        loss: f64,
    },
    /// A step is done.
    Step {
        /// Steps done with it.
        step: u64,
        /// Its loss.
        loss: f64,
        /// Its learning rate.
        rate: f64,
        /// The norm of its gradient.
        norm: f64,
    },
    /// A validation is done.
    Validation {
        /// Steps done.
        step: u64,
        /// Its loss.
        loss: f64,
    },
    /// Something was measured.
    Measure {
        /// What.
        name: String,
        /// As text.
        value: String,
    },
    /// What is going on besides training; nothing where it is empty.
    Note(String),
}

/// What the user asks for with a key; a line each.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Key {
    /// Save and stop.
    Stop,
    /// Draw samples now.
    Sample,
}

impl Message {
    /// The line, without its end.
    pub fn to_line(&self) -> String {
        let line = match self {
            Self::Begin { steps, title } => format!("begin\t{steps}\t{title}"),
            Self::Before { step, loss } => format!("before\t{step}\t{loss}"),
            Self::Step { step, loss, rate, norm } => format!("step\t{step}\t{loss}\t{rate}\t{norm}"),
            Self::Validation { step, loss } => format!("validation\t{step}\t{loss}"),
            Self::Measure { name, value } => format!("measure\t{name}\t{value}"),
            Self::Note(note) => format!("note\t{note}"),
        };
        line.replace(['\n', '\r'], " ")
    }

    /// What a line says, if it is one.
    pub fn from_line(line: &str) -> Option<Self> {
        let cells: Vec<&str> = line.trim_end_matches(['\n', '\r']).split('\t').collect();
        let text = |at: usize| cells[at].to_owned();
        Some(match (cells[0], cells.len()) {
            ("begin", 3) => Self::Begin { steps: cells[1].parse().ok()?, title: text(2) },
            ("before", 3) => Self::Before { step: cells[1].parse().ok()?, loss: cells[2].parse().ok()? },
            ("step", 5) => Self::Step {
                step: cells[1].parse().ok()?,
                loss: cells[2].parse().ok()?,
                rate: cells[3].parse().ok()?,
                norm: cells[4].parse().ok()?,
            },
            ("validation", 3) => Self::Validation { step: cells[1].parse().ok()?, loss: cells[2].parse().ok()? },
            ("measure", 3) => Self::Measure { name: text(1), value: text(2) },
            ("note", 2) => Self::Note(text(1)),
            _ => return None,
        })
    }
}

impl Key {
    /// The line, without its end.
    pub fn to_line(self) -> &'static str {
        match self {
            Self::Stop => "stop",
            Self::Sample => "sample",
        }
    }

    /// What a line says, if it is one.
    pub fn from_line(line: &str) -> Option<Self> {
        [Self::Stop, Self::Sample].into_iter().find(|key| key.to_line() == line.trim_end())
    }
}

/// A running dashboard. Dropping it gives the terminal back.
#[derive(Debug)]
pub struct Dashboard {
    program: Child,
    /// None once the program has ended.
    to: Option<ChildStdin>,
    keys: Receiver<Key>,
}

impl Dashboard {
    /// Starts `program`; `None` where standard error or standard input is no terminal, and nothing is drawn then.
    ///
    /// # Errors
    /// If the program cannot be started.
    pub fn open(program: &Path) -> std::io::Result<Option<Self>> {
        if !std::io::stderr().is_terminal() || !std::io::stdin().is_terminal() {
            return Ok(None);
        }
        Self::start(Command::new(program)).map(Some)
    }

    fn start(mut command: Command) -> std::io::Result<Self> {
        let mut program = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
        let from = program.stdout.take().expect("it is a pipe");
        let (send, keys) = channel();
        std::thread::spawn(move || {
            let lines = BufReader::new(from).lines().map_while(Result::ok);
            lines.filter_map(|line| Key::from_line(&line)).try_for_each(|key| send.send(key).ok())
        });
        let to = program.stdin.take();
        Ok(Self { program, to, keys })
    }

    /// Tells it something; nothing happens where it has ended.
    pub fn tell(&mut self, message: &Message) {
        if let Some(to) = &mut self.to
            && writeln!(to, "{}", message.to_line()).is_err()
        {
            self.to = None;
        }
    }

    /// Whether it still draws.
    pub fn is_there(&self) -> bool {
        self.to.is_some()
    }

    /// The keys pressed since the last call.
    pub fn keys(&self) -> Vec<Key> {
        self.keys.try_iter().collect()
    }
}

impl Drop for Dashboard {
    fn drop(&mut self) {
        self.to = None;
        let _ = self.program.wait();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_and_keys_survive_their_lines() {
        let messages = [
            Message::Begin { steps: 4200, title: "training the teacher".into() },
            Message::Before { step: 1, loss: 0.1 },
            Message::Step { step: 2, loss: 1e-9, rate: 2e-3, norm: f64::INFINITY },
            Message::Validation { step: 2, loss: 0.25 },
            Message::Measure { name: "Fréchet distance".into(), value: "12.3 of 400".into() },
            Message::Note(String::new()),
        ];
        for message in messages {
            assert_eq!(Message::from_line(&(message.to_line() + "\n")), Some(message));
        }
        assert_eq!(Message::from_line("step\t1"), None);
        assert_eq!(Message::Note("two\nlines".into()).to_line(), "note\ttwo lines");
        assert_eq!(
            [Key::from_line("stop\n"), Key::from_line("sample"), Key::from_line("x")],
            [Some(Key::Stop), Some(Key::Sample), None]
        );
    }

    #[test]
    fn without_a_terminal_nothing_is_started() {
        if std::io::stdin().is_terminal() && std::io::stderr().is_terminal() {
            println!("SKIPPED: standard error and input are a terminal here");
            return;
        }
        assert!(Dashboard::open(Path::new("/no/such/program")).unwrap().is_none());
    }

    /// A shell stands for the program: it says a key for each line it is told, then ends early.
    #[cfg(unix)]
    #[test]
    fn keys_arrive_and_training_outlives_the_dashboard() {
        let mut command = Command::new("sh");
        command.args(["-c", "read line; echo sample; read line; echo stop"]);
        let mut dashboard = Dashboard::start(command).unwrap();
        let note = Message::Note("drawing".into());
        dashboard.tell(&note);
        assert_eq!(dashboard.keys.recv(), Ok(Key::Sample));
        dashboard.tell(&note);
        assert_eq!(dashboard.keys.recv(), Ok(Key::Stop));
        // It has ended, or will soon: telling it more is no error.
        while dashboard.is_there() {
            dashboard.tell(&note);
        }
        assert!(dashboard.keys().is_empty());
    }
}
