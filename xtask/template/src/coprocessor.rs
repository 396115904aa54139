//! The compiler uses the floating-point and vector unit of the processor that it is told: the unit is switched on right after
//! reset, by giving all access to coprocessors 10 and 11 (CPACR).

core::arch::global_asm!(
    ".global __pre_init",
    ".thumb_func",
    "__pre_init:",
    "ldr r0, =0xE000ED88",
    "ldr r1, [r0]",
    "orr r1, r1, #0xF00000",
    "str r1, [r0]",
    "dsb",
    "isb",
    "bx lr",
    ".pool",
);
