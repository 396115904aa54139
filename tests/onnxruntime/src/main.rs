//! `time-drawing MODEL CLASS SECONDS`: draws with a model on one core and prints, as JSON, the network's input and output
//! in each pass of one image, and the shortest time of an image.

use mote_core::format::OUTPUT;
use mote_core::{Generator, Model, Progress, Request, aligned};
use std::error::Error;
use std::time::{Duration, Instant};

/// Steps of the state in 1.
const STATE_ONE: f32 = mote_core::quant::STATE_ONE as f32;

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [path, class, seconds] = &arguments[..] else { return Err("usage: time-drawing MODEL CLASS SECONDS".into()) };
    let file = std::fs::read(path)?;
    let model = Model::parse(&file)?;
    let mut arena = vec![0; model.arena_len() + 3];
    let mut generator = Generator::new(&model, aligned(&mut arena))?;
    let request = Request { class: class.parse()?, seed: 1, ..Request::default() };
    let limit = Duration::try_from_secs_f64(seconds.parse()?)?;

    let scale = model.tensor(OUTPUT).scale;
    let mut passes = Vec::new();
    generator.start(request)?;
    while generator.progress() != Progress::Done {
        let state = list(generator.state().iter().map(|&x| f32::from(x) / STATE_ONE));
        generator.step();
        let output = generator.tensor_bytes(OUTPUT).as_chunks().0.iter().map(|&bytes| i16::from_le_bytes(bytes));
        passes.push(format!("{{\"x\":{state},\"f\":{}}}", list(output.map(|f| f32::from(f) * scale))));
    }

    let (started, mut shortest, mut images) = (Instant::now(), Duration::MAX, 0);
    while started.elapsed() < limit {
        let begin = Instant::now();
        generator.start(request)?;
        generator.finish();
        shortest = shortest.min(begin.elapsed());
        images += 1;
    }
    println!(
        "{{\"shape\":[{},{},{}],\"classes\":{},\"passes\":[{}],\"images\":{images},\"seconds\":{}}}",
        model.height(),
        model.width(),
        model.channels(),
        model.classes(),
        passes.join(","),
        shortest.as_secs_f64()
    );
    Ok(())
}

/// A JSON array.
fn list(values: impl Iterator<Item = f32>) -> String {
    let values: Vec<String> = values.map(|value| value.to_string()).collect();
    format!("[{}]", values.join(","))
}
