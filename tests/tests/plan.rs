//! The planner against an exact solver, and the memory of the network that `core/docs/memory.md` measures.

use mote_core::format::OpSpec;
use mote_core::model::Tensor;
use mote_core::noise::philox4x32_10;
use mote_core::plan::{self, Room};
use mote_core::{Generator, Model, Request, aligned, selftest};
use mote_tests::placement::{InPlace, Overlay, Problem, graph_of};
use mote_tests::unet::{Constants, Network, SMALL, Sizes};
use std::path::Path;

fn optimum(tensors: &[Tensor], ops: &[OpSpec<'_>], history: Option<u16>) -> usize {
    Problem::new(tensors, ops, history, InPlace::Allowed).optimum().expect("the solver finishes")
}

#[test]
fn the_smallest_plan_of_every_released_model_is_the_exact_optimum() {
    let models = Path::new(env!("CARGO_MANIFEST_DIR")).join("../firmware/models");
    let mut count = 0;
    for entry in models.read_dir().unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_some_and(|extension| extension == "mote") {
            let file = std::fs::read(&path).unwrap();
            let model = Model::parse(&file).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
            assert_smallest_is_optimal(&model);
            count += 1;
        }
    }
    assert!(count > 0, "no model in {}", models.display());
}

#[test]
fn the_smallest_plan_of_the_self_tests_model_is_the_exact_optimum() {
    let mut file = [0; 8192];
    assert_smallest_is_optimal(&selftest::write_model(&mut file).unwrap());
}

fn assert_smallest_is_optimal(model: &Model<'_>) {
    let (mut tensors, mut ops, history) = graph_of(model);
    let arena = plan::place(&mut tensors, &mut ops, history, Room::Smallest);
    assert_eq!(arena, optimum(&tensors, &ops, history), "{}", model.name());
}

#[test]
fn the_smallest_plan_of_unets_is_the_exact_optimum() {
    let constants = Constants::new(1);
    let wide = [16, 24, 32, 48];
    let all: [([usize; 2], &[usize], usize); 6] = [
        ([14; 2], &[16, 32], 2),
        ([28; 2], SMALL.widths, 1),
        ([28; 2], SMALL.widths, 2),
        ([16; 2], &[24, 32, 64], 2),
        ([32; 2], &wide, 1),
        ([1, 128], SMALL.widths, 1),
    ];
    for (sides, widths, middle) in all {
        let sizes = Sizes { sides, widths, middle };
        let mut net = Network::new(&sizes, &constants);
        let arena = plan::place(&mut net.tensors, &mut net.ops, None, Room::Smallest);
        assert_eq!(arena, optimum(&net.tensors, &net.ops, None), "{sizes:?}");
    }
}

/// The table of `core/docs/memory.md`.
#[test]
fn the_28x28_network_needs_what_the_document_says() {
    let constants = Constants::new(1);
    let mut net = Network::new(&SMALL, &constants);
    let stored = Problem::layer_by_layer(&net.tensors, &net.ops).optimum().unwrap();
    let loaded = Problem::new(&net.tensors, &net.ops, None, InPlace::Forbidden).optimum().unwrap();
    let smallest = plan::place(&mut net.tensors, &mut net.ops, None, Room::Smallest);
    let usual = plan::place(&mut net.tensors, &mut net.ops, None, Room::Usual);
    assert!((50_000..=63_000).contains(&usual), "{usual}");
    let document = include_str!("../../core/docs/memory.md");
    for bytes in [stored, loaded, smallest, usual] {
        let cell = format!("| {},{:03} |", bytes / 1000, bytes % 1000);
        assert!(document.contains(&cell), "core/docs/memory.md has no cell {cell}");
    }
}

/// The same samples where nothing overlaps anything, in the smallest arena, and with long passes.
#[test]
fn where_tensors_lie_changes_no_number() {
    let constants = Constants::new(2);
    let mut net = Network::new(&SMALL, &constants);
    lie_apart(&mut net.tensors, &mut net.ops);
    let expected = samples(&net.file());
    assert!(expected.iter().any(|&pixel| pixel != expected[0]));
    for room in [Room::Smallest, Room::Usual, Room::Bytes(100_000)] {
        plan::place(&mut net.tensors, &mut net.ops, None, room);
        let shared = net.ops.iter().any(|op| {
            op.inputs().any(|input| net.tensors[input as usize].overlaps(&net.tensors[op.output() as usize]))
        });
        assert!(shared || room == Room::Bytes(100_000), "nothing is in place");
        assert!(samples(&net.file()) == expected, "{room:?}");
    }
}

/// Every tensor and every scratch has a place of its own.
fn lie_apart(tensors: &mut [Tensor], ops: &mut [OpSpec<'_>]) {
    let mut end = 0;
    let mut take = |bytes: usize| {
        end += bytes.next_multiple_of(4);
        end - bytes.next_multiple_of(4)
    };
    for tensor in tensors.iter_mut() {
        tensor.offset = take(tensor.bytes());
    }
    for op in ops {
        op.memory_mut().pixels = 6;
        let bytes = op.scratch_len(tensors, 6, false);
        op.memory_mut().scratch = take(bytes);
    }
}

fn samples(file: &[u8]) -> Vec<u8> {
    let model = Model::parse(file).unwrap();
    let mut arena = vec![0; model.arena_len() + 3];
    let mut generator = Generator::new(&model, aligned(&mut arena)).unwrap();
    generator.start(Request::default()).unwrap();
    generator.finish();
    generator.pixels().collect()
}

/// The solver against every placement on a grid, of problems small enough for that.
#[test]
fn the_solver_finds_what_trying_everything_finds() {
    for seed in 0..300 {
        let problem = random_problem(seed);
        let tried = (0..64).map(|quads| 4 * quads).find(|&limit| some_placement_fits(&problem, limit)).unwrap();
        assert_eq!(problem.optimum(), Ok(tried), "{problem:?}");
    }
}

/// Four blocks and the scratch of an operation whose output may lie over an input.
fn random_problem(seed: u32) -> Problem {
    let mut words = (0..).flat_map(|index| philox4x32_10([index, 0, 0, 0], [seed, 7]));
    let mut below = |limit: u32| (words.next().unwrap() % limit) as usize;
    let mut problem = Problem { times: 5, ..Problem::default() };
    for _ in 0..3 {
        let start = below(5);
        problem.bytes.push(4 + 4 * below(4));
        problem.lives.push(start..start + 1 + below(5 - start as u32));
    }
    let time = 1 + below(3);
    for life in [0..time + 1, time..5, time..time + 1] {
        problem.bytes.push(4 + 4 * below(4));
        problem.lives.push(life);
    }
    let lead = 4 * (below(4) as i64 - 1);
    problem.overlays.push(Overlay { input: 3, output: 4, lead, scratch: 5, scratch_bytes: problem.bytes[5] + 4 });
    problem
}

fn some_placement_fits(problem: &Problem, limit: usize) -> bool {
    fn place(problem: &Problem, limit: usize, offsets: &mut Vec<usize>) -> bool {
        let block = offsets.len();
        if block == problem.bytes.len() {
            return true;
        }
        (0..=limit / 4).any(|quad| {
            offsets.push(4 * quad);
            let fits = fits(problem, limit, offsets) && place(problem, limit, offsets);
            offsets.pop();
            fits
        })
    }
    place(problem, limit, &mut Vec::new())
}

/// Whether the block that was placed last may be where it is.
fn fits(problem: &Problem, limit: usize, offsets: &[usize]) -> bool {
    let overlay = problem.overlays[0];
    let end = |block: usize| offsets[block] + bytes(problem, block, offsets);
    let last = offsets.len() - 1;
    let alive = |other: usize| {
        let (a, b) = (&problem.lives[last], &problem.lives[other]);
        a.start.max(b.start) < a.end.min(b.end)
    };
    let overlap = |other: usize| offsets[last] < end(other) && offsets[other] < end(last);
    let allowed = |other: usize| {
        [other, last] == [overlay.input, overlay.output]
            && offsets[overlay.input] as i64 - offsets[overlay.output] as i64 >= overlay.lead
    };
    end(last) <= limit && (0..last).all(|other| !alive(other) || !overlap(other) || allowed(other))
}

/// The scratch, which is placed after the tensors, is longer if the tensors of its operation overlap.
fn bytes(problem: &Problem, block: usize, offsets: &[usize]) -> usize {
    let Overlay { input, output, scratch, scratch_bytes, .. } = problem.overlays[0];
    let apart = |a: usize, b: usize| offsets[a] + problem.bytes[a] <= offsets[b];
    if block == scratch && !apart(input, output) && !apart(output, input) {
        scratch_bytes
    } else {
        problem.bytes[block]
    }
}
