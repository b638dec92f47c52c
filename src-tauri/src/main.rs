//! The desktop program. All is in the library, which mobile systems load.

#![cfg_attr(not(debug_assertions), windows_subsystem = "windows")]

fn main() {
    tandem_app::run();
}
