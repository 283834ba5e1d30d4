#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| pbmbox_fuzz::run("raw", input));
