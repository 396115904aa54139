//! `mote-train-dashboard`: training on a terminal's whole screen. `mote-train train --dashboard` starts it; it reads what to
//! draw from standard input, a line each, and writes the keys pressed to standard output (`mote_train_support::dashboard`).
//! It is drawn on standard error, and ends with its input.

mod board;
mod terminal;

use std::io::{BufRead, Write, stdin, stdout};
use std::process::ExitCode;
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::time::{Duration, Instant};

use board::Board;
use mote_train_support::dashboard::Message;
use terminal::Screen;

/// Time between two looks at the keyboard.
const EVERY: Duration = Duration::from_millis(50);

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: cannot draw the dashboard: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> std::io::Result<()> {
    let Some(mut screen) = Screen::open()? else {
        return Err(std::io::Error::other("standard error is no terminal; `mote-train train --dashboard` starts it"));
    };
    let (send, messages) = channel();
    std::thread::spawn(move || {
        let lines = stdin().lock().lines().map_while(Result::ok);
        lines.filter_map(|line| Message::from_line(&line)).try_for_each(|message| send.send(message).ok())
    });
    let mut board = Board::default();
    loop {
        match messages.recv_timeout(EVERY) {
            Ok(message) => {
                let now = Instant::now();
                board.tell(message, now);
                messages.try_iter().for_each(|message| board.tell(message, now));
            }
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => return Ok(()),
        }
        for key in screen.update(&board)? {
            writeln!(stdout(), "{}", key.to_line())?;
            stdout().flush()?;
        }
    }
}
