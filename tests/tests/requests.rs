//! Requests draw what an independent interpreter draws, `tests/golden/draw.py`; the first lines of its file say how it was made.

use mote_core::anomaly::{self, Normal};
use mote_core::plan::{self, Room};
use mote_core::{
    Aim, Generator, Known, Mix, Model, Pace, Progress, Request, RequestError, Resampling, Start, Stream, Values,
    aligned, pixels,
};
use mote_tests::unet::{Constants, Network, ROW};
use std::pin::pin;
use std::task::{Context, Waker};

const GOLDEN: &str = include_str!("../golden/draw.txt");
const DEMO: &[u8] = include_bytes!("../../firmware/models/demo.mote");

fn signal() -> Vec<u8> {
    let constants = Constants::new(1);
    let mut net = Network::new(&ROW, &constants);
    plan::place(&mut net.tensors, &mut net.ops, None, Room::Usual);
    net.signal_file()
}

/// The words of the golden file's lines that begin with `kind`.
fn lines(kind: &str) -> Vec<Vec<&'static str>> {
    let all = GOLDEN.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
    let lines: Vec<_> = all.filter(|words| words.first() == Some(&kind)).collect();
    assert!(!lines.is_empty(), "no line of {kind}");
    lines
}

/// What follows the word `is`.
fn numbers(words: &[&str]) -> Vec<i64> {
    let is = words.iter().position(|word| *word == "is").unwrap();
    words[is + 1..].iter().map(|word| word.parse().unwrap()).collect()
}

fn bytes(hex: &str) -> Vec<u8> {
    (0..hex.len()).step_by(2).map(|at| u8::from_str_radix(&hex[at..at + 2], 16).unwrap()).collect()
}

fn words(hex: &str) -> Vec<i16> {
    bytes(hex).chunks_exact(2).map(|pair| i16::from_le_bytes([pair[0], pair[1]])).collect()
}

/// Values of a line, which outlive the request.
enum Owned {
    Pixels(Vec<u8>),
    Q12(Vec<i16>),
}

impl Owned {
    fn read<'w>(mut words_left: impl Iterator<Item = &'w str>) -> Self {
        match (words_left.next().unwrap(), words_left.next().unwrap()) {
            ("pixels", hex) => Owned::Pixels(bytes(hex)),
            ("q12", hex) => Owned::Q12(words(hex)),
            other => panic!("{other:?}"),
        }
    }

    fn values(&self) -> Values<'_> {
        match self {
            Owned::Pixels(pixels) => Values::Pixels(pixels),
            Owned::Q12(values) => Values::Q12(values),
        }
    }
}

/// A line `draw`, ready to be a request.
struct Line {
    request: Request<'static>,
    start: Option<(bool, Owned)>,
    known: Option<(Owned, Vec<u8>, Resampling)>,
    state: Vec<i16>,
}

impl Line {
    fn read(line: &[&str]) -> Self {
        let mut left = line[2..].iter().copied();
        let number = |left: &mut dyn Iterator<Item = &str>| left.next().unwrap().parse::<u64>().unwrap();
        let [class, seed, sample, first_row] = [0; 4].map(|_| number(&mut left));
        let aim = if left.next() == Some("mean") { Aim::Mean } else { Aim::Sample };
        let mut request =
            Request { class: class as u16, seed, sample, first_row: first_row as u16, aim, ..Request::default() };
        let start = match left.next().unwrap() {
            "noise" => None,
            "mixed" => {
                let [a, b, c, d, fraction] = [0; 5].map(|_| number(&mut left));
                let ends = [Stream { seed: a, sample: b }, Stream { seed: c, sample: d }];
                request.start = Start::Mixed(Mix { ends, fraction: fraction as u32 });
                None
            }
            kind => Some((kind == "noised", Owned::read(&mut left))),
        };
        let known = match left.next().unwrap() {
            "known" => {
                let (values, mask) = (Owned::read(&mut left), bytes(left.next().unwrap()));
                let [jump, resamples] = [0; 2].map(|_| number(&mut left) as u16);
                assert_eq!(left.next(), Some("is"));
                Some((values, mask, Resampling { jump, resamples }))
            }
            word => {
                assert_eq!(word, "is");
                None
            }
        };
        Line { request, start, known, state: words(left.next().unwrap()) }
    }

    fn request(&self) -> Request<'_> {
        let start = match &self.start {
            None => self.request.start,
            Some((true, values)) => Start::Noised(values.values()),
            Some((false, values)) => Start::Noisy(values.values()),
        };
        let known = self.known.as_ref().map(|(values, mask, resampling)| Known {
            values: values.values(),
            mask,
            resampling: *resampling,
        });
        Request { start, known, ..self.request }
    }
}

/// A model and the working memory for it.
fn with_generator<'r, T>(model: &'r Model<'r>, memory: &'r mut Vec<u8>, f: impl FnOnce(Generator<'r, 'r>) -> T) -> T {
    memory.resize(model.arena_len() + 3, 0);
    f(Generator::new(model, aligned(memory)).unwrap())
}

fn draw(model: &Model<'_>, request: Request<'_>) -> Vec<i16> {
    with_generator(model, &mut Vec::new(), |mut generator| {
        generator.start(request).unwrap();
        generator.finish();
        generator.state().to_vec()
    })
}

#[test]
fn requests_draw_the_reference_values() {
    let signal = signal();
    let [signal, demo] = [&signal[..], DEMO].map(|file| Model::parse(file).unwrap());
    for line in lines("draw") {
        let model = if line[1] == "demo" { &demo } else { &signal };
        let line = Line::read(&line);
        assert_eq!(draw(model, line.request()), line.state, "{:?}", line.request());
    }
}

/// In one go, row by row, layer by layer and in turns with other tasks.
#[test]
fn every_way_to_walk_draws_the_same() {
    let signal = signal();
    let model = Model::parse(&signal).unwrap();
    for line in lines("draw").iter().filter(|line| line[1] == "signal").map(|line| Line::read(line)) {
        let request = line.request();
        let ways: [fn(&mut Generator<'_, '_>); 4] = [
            |generator| while generator.step() != Progress::Done {},
            |generator| while generator.step_layer() != Progress::Done {},
            |generator| run(generator.in_turns(Pace::Layer)),
            |generator| run(generator.in_turns(Pace::Row)),
        ];
        for way in ways {
            with_generator(&model, &mut Vec::new(), |mut generator| {
                generator.start(request).unwrap();
                assert_eq!(generator.passes_done(), 0);
                way(&mut generator);
                assert_eq!(generator.state(), line.state, "{request:?}");
                assert_eq!(generator.passes_done(), generator.passes(), "{request:?}");
            });
        }
    }
}

/// Polls until it is done.
fn run(future: impl Future) {
    let mut future = pin!(future);
    while future.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending() {}
}

#[test]
fn scores_are_the_reference_s() {
    const LEVELS: u16 = 3;
    let signal = signal();
    let model = Model::parse(&signal).unwrap();
    let mut found = Vec::new();
    for line in lines("score") {
        let window = words(line[2]);
        let scores = (0..LEVELS).map(|level| {
            let first_row = anomaly::first_row(level, LEVELS, model.rows());
            with_generator(&model, &mut Vec::new(), |mut generator| {
                let start = Start::Noised(Values::Q12(&window));
                generator.start(Request { seed: 1, first_row, start, ..Request::default() }).unwrap();
                generator.finish();
                generator.score(Values::Q12(&window))
            })
        });
        found.push(scores.collect::<Vec<u64>>());
        assert_eq!(found.last().unwrap().iter().map(|&score| score as i64).collect::<Vec<_>>(), numbers(&line));
    }
    let of_level = |level: usize| found[..3].iter().map(|scores| scores[level]).collect::<Vec<_>>();
    let normal: Vec<Normal> = (0..3).map(|level| Normal::of(&of_level(level))).collect();
    assert_eq!(anomaly::standardized(&found[3], &normal), numbers(&lines("standardized")[0])[0]);
}

#[test]
fn rows_for_noise_are_the_reference_s() {
    let signal = signal();
    for line in lines("row_for_noise") {
        let model = Model::parse(if line[1] == "demo" { DEMO } else { &signal }).unwrap();
        let found: Vec<i64> =
            (0..=u16::MAX).step_by(257).map(|deviation| model.row_for_noise(deviation).into()).collect();
        assert_eq!(found, numbers(&line));
    }
}

#[test]
fn colours_and_natural_values_are_the_reference_s() {
    let colours = (0..=255u8).map(|p| pixels::to_rgb565([p, 255 - p, p.wrapping_mul(7)]).into());
    assert_eq!(colours.collect::<Vec<i64>>(), numbers(&lines("rgb565")[0]));
    let unit = [21.7, 0.37];
    let natural: Vec<u8> =
        (-32768..=32767).step_by(1031).flat_map(|x: i32| pixels::to_natural(x as i16, unit).to_le_bytes()).collect();
    assert_eq!(natural, bytes(lines("to_natural")[0].last().unwrap()));
    let values = (-300..700).step_by(7).map(|x| pixels::from_natural((f64::from(x) * 0.0301) as f32, unit).into());
    assert_eq!(values.collect::<Vec<i64>>(), numbers(&lines("from_natural")[0]));
}

#[test]
fn known_values_are_kept_to_the_pixel_and_the_rest_is_drawn() {
    let model = Model::parse(DEMO).unwrap();
    let picture: Vec<u8> = (0..196).map(|i| (i * 91 % 256) as u8).collect();
    let mask: Vec<u8> = (0..196).map(|i| u8::from(i % 14 < 7)).collect();
    let resampling = Resampling { jump: 2, resamples: 2 };
    let known = Some(Known { values: Values::Pixels(&picture), mask: &mask, resampling });
    let free = draw(&model, Request::default());
    let drawn = draw(&model, Request { known, ..Request::default() });
    for (i, &x) in drawn.iter().enumerate().filter(|(i, _)| mask[*i] != 0) {
        assert_eq!(pixels::to_u8(x), picture[i], "value {i}");
    }
    assert!(drawn.iter().zip(&free).zip(&mask).any(|((drawn, free), mask)| *mask == 0 && drawn != free));
}

#[test]
fn results_are_the_same_picture_in_every_form() {
    let signal = signal();
    let model = Model::parse(&signal).unwrap();
    with_generator(&model, &mut Vec::new(), |mut generator| {
        generator.start(Request::default()).unwrap();
        generator.finish();
        let pixels: Vec<u8> = generator.pixels().collect();
        assert!(generator.pixels_i8().zip(&pixels).all(|(signed, &pixel)| i16::from(signed) + 128 == i16::from(pixel)));
        assert!(generator.pixels_rgb().eq(pixels.iter().map(|&pixel| [pixel; 3])));
        assert!(generator.pixels_rgb565().eq(pixels.iter().map(|&pixel| pixels::to_rgb565([pixel; 3]))));
        let natural: Vec<f32> = generator.natural().unwrap().collect();
        assert!(natural.iter().zip(generator.state()).all(|(value, &x)| *value == pixels::to_natural(x, [21.7, 0.37])));
    });
    let demo = Model::parse(DEMO).unwrap();
    with_generator(&demo, &mut Vec::new(), |generator| assert!(generator.natural().is_none()));
}

#[test]
fn requests_that_cannot_be_are_refused_with_what_is_wrong() {
    let model = Model::parse(DEMO).unwrap();
    let (picture, mask) = ([0; 196], [1; 196]);
    let known = |len: usize, jump, resamples| {
        let resampling = Resampling { jump, resamples };
        Request {
            known: Some(Known { values: Values::Pixels(&picture), mask: &mask[..len], resampling }),
            ..Request::default()
        }
    };
    let ends = [Stream::default(); 2];
    let refused = [
        (known(195, 1, 1), RequestError::Mask { len: 195, pixels: 196, values: 196 }),
        (known(196, 0, 1), RequestError::Resampling { jump: 0, resamples: 1, rows: 4 }),
        (known(196, 1, 0), RequestError::Resampling { jump: 1, resamples: 0, rows: 4 }),
        (known(196, 4, 2), RequestError::Resampling { jump: 4, resamples: 2, rows: 4 }),
        (known(196, 1, 60_000), RequestError::Moves { moves: 4 + 3 * 59_999 * 2 }),
        (
            Request { start: Start::Mixed(Mix { ends, fraction: 65537 }), ..Request::default() },
            RequestError::Fraction { fraction: 65537 },
        ),
        (
            Request { start: Start::Noisy(Values::Q12(&[0; 3])), ..Request::default() },
            RequestError::Values { len: 3, needed: 196 },
        ),
    ];
    for (request, error) in refused {
        assert_eq!(request.check(&model), Err(error));
    }
    known(196, 9, 1).check(&model).unwrap();
}
