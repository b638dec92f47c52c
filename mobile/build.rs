//! Permissions, and where the native sources are.

// The window asks the app's own commands; only Rust calls this plugin.
const COMMANDS: &[&str] = &[];

fn main() {
    tauri_plugin::Builder::new(COMMANDS).android_path("android").ios_path("ios").build();
}
