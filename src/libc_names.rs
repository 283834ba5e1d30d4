//! Keeps a statically linked glibc to the name services that are linked in.
//!
//! Otherwise the host's `nsswitch.conf` decides, and a lookup that reaches one of its modules (`mdns4_minimal`,
//! `resolve`, `myhostname`) loads code made for the host's own glibc, which ends the process with a signal. The price:
//! names that only such a module knows do not resolve.

#[cfg(all(target_env = "gnu", target_feature = "crt-static"))]
mod glibc {
    use std::ffi::{CStr, c_char, c_int};

    /// The libc's table of databases, with the services that need no module.
    const SERVICES: [(&CStr, &CStr); 6] = [
        (c"hosts", c"files dns"),
        (c"passwd", c"files"),
        (c"group", c"files"),
        (c"services", c"files"),
        (c"protocols", c"files"),
        (c"networks", c"files"),
    ];

    #[expect(unsafe_code, reason = "no crate offers this call")]
    pub fn configure() {
        unsafe extern "C" {
            fn __nss_configure_lookup(database: *const c_char, services: *const c_char) -> c_int;
        }
        for (database, services) in SERVICES {
            // SAFETY: both are strings that end with a zero and live forever; the function is glibc's own, with this
            // signature, and no other thread looks a name up yet.
            unsafe { __nss_configure_lookup(database.as_ptr(), services.as_ptr()) };
        }
    }
}

/// To be called first in `main`. Does nothing in a dynamically linked program, where the host's choice is right.
pub fn keep_to_files_and_dns() {
    #[cfg(all(target_env = "gnu", target_feature = "crt-static"))]
    glibc::configure();
}
