//! Memory whose faults the program serves itself.
//!
//! It is registered when nothing more is done to it: a page that is not there is then asked of the program.

use arch::syscall::nr;
use parasite::restorer::{ASK, Step};

use crate::context::Context;

const UFFD_API: u64 = 0xaa;
/// `_IOWR(0xAA, 0x3f, struct uffdio_api)`.
const UFFDIO_API: usize = 0xc018_aa3f;
/// `_IOWR(0xAA, 0x00, struct uffdio_register)`.
const UFFDIO_REGISTER: usize = 0xc020_aa00;

/// Has each serve its memory.
pub fn serve(context: &Context) {
    for call in context.entries(context.arguments().userfaults) {
        let (request, mut argument) = match call.call {
            ASK => (UFFDIO_API, [UFFD_API, call.start, 0, 0]),
            _ => (UFFDIO_REGISTER, [call.start, call.bytes, call.mode, 0]),
        };
        let args = [call.fd as usize, request, &raw mut argument as usize, 0, 0, 0];
        context.must(Step::Userfault, call.fd as u64, nr::IOCTL, args);
    }
}
