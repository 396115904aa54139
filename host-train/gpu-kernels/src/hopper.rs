//! Convolutions of stride 1 on bfloat16 on a Hopper GPU, whose matrix units (`wgmma`) cubecl has no name for: kernels in
//! CUDA C++, which cubecl compiles, caches and launches.
//!
//! Pixels lie in shared memory once for all taps; a lane names one of them for `ldmatrix`, or a row of zeros where the tap
//! sees beyond the picture. The other operand is read by the matrix units themselves, from blocks of 64 x 64 in the
//! 128-byte swizzle: the 16 bytes at place v of row r are those of place `v ^ (r % 8)`.

use std::fmt::Debug;
use std::hash::Hash;
use std::marker::PhantomData;

use cubecl::features::Tma;
use cubecl::prelude::*;
use cubecl::server::{Handle, KernelArguments, MetadataBindingInfo};
use cubecl::{CompilationError, Compiler, CubeTask};

/// Rows and columns of a block.
pub(crate) const SIDE: usize = 64;
/// Bytes of a block.
const BLOCK: usize = SIDE * SIDE * 2;
/// Bytes of a pixel's 64 channels.
const PIXEL: usize = SIDE * 2;
/// Shared memory of a block of threads if two are to share a multiprocessor.
const HALF_SHARED: usize = 115_712;
/// Blocks of threads that keep a large GPU busy.
const MANY: usize = 264;
/// Taps that a lane keeps one bit of.
const MOST_TAPS: usize = 32;

const COMMON: &str = include_str!("hopper/common.cu");
const MULTIPLY: &str = include_str!("hopper/multiply.cu");
const CORRELATE: &str = include_str!("hopper/correlate.cu");
/// Distinguishes the sources' versions in cubecl's cache.
const SOURCES: u64 = hash(CORRELATE, hash(MULTIPLY, hash(COMMON, 0xCBF2_9CE4_8422_2325)));

/// FNV-1a.
#[allow(long_running_const_eval)]
const fn hash(text: &str, mut state: u64) -> u64 {
    let mut i = 0;
    while i < text.len() {
        state = (state ^ text.as_bytes()[i] as u64).wrapping_mul(0x0100_0000_01B3);
        i += 1;
    }
    state
}

/// Whether the GPU's matrix units are Hopper's.
fn is_hopper<R: Runtime>(client: &ComputeClient<R>) -> bool {
    let tma = client.features().tma;
    tma.contains(Tma::Base) && !tma.contains(Tma::Im2colWide)
}

/// Sizes of a convolution of stride 1 with padding `kernel / 2`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Sizes {
    /// Channels read: those of x.
    pub(crate) input: usize,
    /// Channels written, or those of dy.
    pub(crate) output: usize,
    /// Rows.
    pub(crate) height: usize,
    /// Columns.
    pub(crate) width: usize,
    /// Rows and columns of the kernel.
    pub(crate) kernel: [usize; 2],
}

impl Sizes {
    fn taps(&self) -> usize {
        self.kernel[0] * self.kernel[1]
    }

    /// Pixels before and behind a run of pixels that a kernel sees.
    fn reach(&self) -> usize {
        (self.kernel[0] / 2) * self.width + self.kernel[1] / 2
    }

    fn fit<R: Runtime>(&self, client: &ComputeClient<R>) -> bool {
        let whole = self.input.is_multiple_of(SIDE) && self.output.is_multiple_of(SIDE);
        whole && self.kernel.iter().all(|side| side % 2 == 1) && self.taps() <= MOST_TAPS && is_hopper(client)
    }

    fn definitions(&self) -> String {
        let Self { input, output, height, width, kernel: [rows, columns] } = self;
        format!(
            "#define CIN {input}\n#define COUT {output}\n#define H {height}\n#define W {width}\n#define KH {rows}\n#define KW \
             {columns}\n"
        )
    }
}

/// How a convolution is computed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Multiply {
    /// The convolution.
    pub(crate) sizes: Sizes,
    bias: bool,
    residual: bool,
    /// 128 pixels each that a block of threads computes.
    parts: usize,
    /// Blocks of weights that are on their way or in use.
    stages: usize,
}

impl Multiply {
    /// For `batch` pictures, if these kernels can.
    pub(crate) fn new<R: Runtime>(
        client: &ComputeClient<R>,
        sizes: Sizes,
        batch: usize,
        [bias, residual]: [bool; 2],
    ) -> Option<Self> {
        if !sizes.fit(client) {
            return None;
        }
        let of = |parts, stages| Self { sizes, bias, residual, parts, stages };
        let blocks = |plan: &Self| plan.tiles(batch) * sizes.output / SIDE;
        let plans = [2, 1].into_iter().flat_map(|parts| [5, 4, 3].map(|stages| of(parts, stages)));
        plans.filter(|plan| plan.parts == 1 || blocks(plan) >= MANY).find(|plan| plan.shared() <= HALF_SHARED).or_else(
            || Some(of(1, 4)).filter(|plan| plan.shared() <= client.properties().hardware.max_shared_memory_size),
        )
    }

    fn tiles(&self, batch: usize) -> usize {
        (batch * self.sizes.height * self.sizes.width).div_ceil(128 * self.parts)
    }

    fn shared(&self) -> usize {
        let window = 128 * self.parts + 2 * self.sizes.reach();
        1024 + self.stages * BLOCK + self.sizes.input / SIDE * window * PIXEL + PIXEL + 16 * self.stages
    }

    /// The convolution of x, `[batch, height, width, input]`, plus `bias`, `[output]` in f32, and the residual, of the
    /// result's shape, if the plan has them.
    ///
    /// `weights`: blocks `[output / 64][input / 64][taps]`, rows of which are output channels, in the swizzle.
    pub(crate) fn launch<R: Runtime>(
        &self,
        client: &ComputeClient<R>,
        batch: usize,
        [x, weights, bias, residual]: [&Handle; 4],
    ) -> Handle {
        let pixels = batch * self.sizes.height * self.sizes.width;
        let out = client.empty(pixels * self.sizes.output * 2);
        let count = CubeCount::Static(self.tiles(batch) as u32, (self.sizes.output / SIDE) as u32, 1);
        let program = Program { plan: *self, entry: "multiply", threads: 256, shared: self.shared() };
        program.launch(client, count, [x, weights, bias, residual, &out], [pixels, 0]);
        out
    }
}

impl Plan for Multiply {
    fn source(&self) -> String {
        let Self { bias, residual, parts, stages, .. } = self;
        let (bias, residual) = (u8::from(*bias), u8::from(*residual));
        format!(
            "{}#define MB {parts}\n#define STAGES {stages}\n#define BIAS {bias}\n#define RESIDUAL {residual}\n{COMMON}{MULTIPLY}",
            self.sizes.definitions()
        )
    }
}

/// How the gradient of the weights is computed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Correlate {
    sizes: Sizes,
    /// Pixels of x in shared memory.
    ring: usize,
}

impl Correlate {
    /// Pixels of a step.
    const PIXELS: usize = 64;

    /// If these kernels can.
    pub(crate) fn new<R: Runtime>(client: &ComputeClient<R>, sizes: Sizes) -> Option<Self> {
        let ring = (3 * Self::PIXELS + 2 * sizes.reach()).next_power_of_two();
        let plan = Self { sizes, ring };
        let room = plan.shared() <= client.properties().hardware.max_shared_memory_size;
        (sizes.fit(client) && room && sizes.kernel.iter().all(|&side| side <= 3)).then_some(plan)
    }

    fn shared(&self) -> usize {
        1024 + 4 * Self::PIXELS * PIXEL + self.ring * PIXEL + PIXEL
    }

    /// Parts whose sum is the gradient, and how many: each `[taps * input + 1, output]` in f32, the last row the bias's.
    ///
    /// # Shapes
    /// - x: `[batch, height, width, input]`; dy: `[batch, height, width, output]`
    pub(crate) fn launch<R: Runtime>(
        &self,
        client: &ComputeClient<R>,
        batch: usize,
        [x, dy]: [&Handle; 2],
    ) -> (Handle, usize) {
        let Sizes { input, output, height, width, kernel } = self.sizes;
        let pixels = batch * height * width;
        let multiprocessors = client.properties().hardware.num_streaming_multiprocessors.unwrap_or(132) as usize;
        let steps = pixels.div_ceil(Self::PIXELS);
        let tiles = (input / SIDE) * (output / SIDE);
        let steps_each = steps.div_ceil((multiprocessors * (3 / kernel[0]) / tiles).clamp(1, steps));
        let splits = steps.div_ceil(steps_each);
        let parts = client.empty(splits * (self.sizes.taps() * input + 1) * output * size_of::<f32>());
        let count = CubeCount::Static((input / SIDE) as u32, (output / SIDE) as u32, splits as u32);
        let program = Program { plan: *self, entry: "correlate", threads: 128 * kernel[0], shared: self.shared() };
        program.launch(client, count, [x, dy, &parts], [pixels, steps_each]);
        (parts, splits)
    }
}

impl Plan for Correlate {
    fn source(&self) -> String {
        format!("{}#define RING {}\n{COMMON}{CORRELATE}", self.sizes.definitions(), self.ring)
    }
}

/// What a kernel is compiled for.
trait Plan: Debug + Copy + Eq + Hash + Send + Sync + 'static {
    /// The kernel in CUDA C++.
    fn source(&self) -> String;
}

/// A kernel and what it needs of a multiprocessor.
struct Program<P> {
    plan: P,
    entry: &'static str,
    threads: usize,
    /// Bytes.
    shared: usize,
}

impl<P: Plan> Program<P> {
    /// The kernel's arguments are pointers to the buffers, then both numbers.
    fn launch<R: Runtime, const N: usize>(
        self,
        client: &ComputeClient<R>,
        count: CubeCount,
        buffers: [&Handle; N],
        numbers: [usize; 2],
    ) {
        let arguments = KernelArguments::new()
            .with_buffers(buffers.into_iter().map(|handle| handle.clone().binding()).collect())
            .with_info(MetadataBindingInfo::new(numbers.map(|number| number as u64).to_vec(), numbers.len()));
        let task = Task::<R, P> { program: self, runtime: PhantomData };
        // SAFETY: the kernels mask pixels beyond the shapes, and the plans check the channels.
        unsafe { client.launch_unchecked(Box::new(task), count, arguments) }
    }
}

/// A kernel as cubecl takes it. What cubecl makes itself is a kernel of as much shared memory, whose source is replaced.
struct Task<R, P> {
    program: Program<P>,
    runtime: PhantomData<fn() -> R>,
}

impl<R: Runtime, P: Plan> KernelMetadata for Task<R, P> {
    fn id(&self) -> KernelId {
        let dim = CubeDim::new_1d(self.program.threads as u32);
        KernelId::new::<Self>().info((self.program.plan, SOURCES)).cube_dim(dim)
    }

    fn address_type(&self) -> StorageType {
        AddressType::U32.unsigned_type()
    }
}

impl<R: Runtime, P: Plan> CubeTask<R::Compiler> for Task<R, P> {
    fn compile(
        &self,
        compiler: &mut R::Compiler,
        options: &<R::Compiler as Compiler>::CompilationOptions,
        mode: ExecutionMode,
        address_type: StorageType,
    ) -> Result<CompiledKernel<R::Compiler>, CompilationError> {
        let Program { plan, entry, threads, shared } = &self.program;
        let mut builder = KernelBuilder::default();
        builder.runtime_properties(R::target_properties());
        AddressType::U32.register(&mut builder.scope);
        room::expand(&mut builder.scope, shared / size_of::<u32>());
        let settings = KernelSettings::default().cube_dim(CubeDim::new_1d(*threads as u32)).kernel_name(*entry);
        let definition = builder.build(settings);
        let cube_dim = definition.cube_dim;
        Ok(CompiledKernel {
            entrypoint_name: (*entry).into(),
            debug_name: None,
            source: plan.source(),
            repr: Some(compiler.compile(definition, options, mode, address_type)?),
            cube_dim,
            debug_info: None,
        })
    }
}

/// Takes `words` of shared memory.
#[cube]
fn room(#[comptime] words: usize) {
    let mut room = SharedMemory::<u32>::new(words);
    room[UNIT_POS as usize] = 0;
}
