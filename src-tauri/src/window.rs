//! The window, and what it shows before its page does: the theme's colour.

use std::path::{Path, PathBuf};
use tauri::utils::config::Color;
use tauri::{App, Theme, WebviewWindow, WebviewWindowBuilder};

/// Of the page, `--bg` in `app.css`.
const LIGHT: Color = Color(0xfb, 0xfa, 0xf8, 0xff);
const DARK: Color = Color(0x16, 0x18, 0x17, 0xff);

/// Beside the database, and read before it: the word of the theme.
fn theme_file(database: &Path) -> PathBuf {
    database.with_file_name("theme")
}

/// Light or dark, where the person has chosen; the system's otherwise.
fn kept_theme(database: &Path) -> Option<Theme> {
    match std::fs::read_to_string(theme_file(database)).ok()?.trim() {
        "light" => Some(Theme::Light),
        "dark" => Some(Theme::Dark),
        _ => None,
    }
}

/// Keeps the theme of the settings for the next start. Without it that begins in the system's colours.
pub(crate) fn keep_theme(database: &Path, theme: &str) {
    let file = theme_file(database);
    if std::fs::read_to_string(&file).is_ok_and(|kept| kept == theme) {
        return;
    }
    if let Err(e) = std::fs::write(&file, theme) {
        tracing::info!("the theme is not kept for the next start: {e}");
    }
}

const fn background(theme: Theme) -> Color {
    if matches!(theme, Theme::Dark) { DARK } else { LIGHT }
}

/// Sets the page's theme before it is laid out. The page's own code does the same for the system's theme.
fn script(theme: Option<Theme>) -> String {
    let dark = match theme {
        Some(Theme::Dark) => "true",
        Some(_) => "false",
        None => "matchMedia('(prefers-color-scheme: dark)').matches",
    };
    format!("document.documentElement.dataset.theme = {dark} ? 'dark' : 'light'")
}

/// Makes the window of the configuration, in the colours of the kept theme.
pub(crate) fn create(tauri: &App) -> tauri::Result<WebviewWindow> {
    let theme = kept_theme(&crate::startup::database(Some(tauri.handle())));
    let config = tauri.config().app.windows.first().ok_or(tauri::Error::WindowNotFound)?;
    let builder = WebviewWindowBuilder::from_config(tauri, config)?;
    let window = builder
        .background_color(background(theme.unwrap_or(Theme::Light)))
        .initialization_script(script(theme))
        .on_page_load(|_, load| {
            if load.event() == tauri::webview::PageLoadEvent::Finished {
                crate::phases::reached("page loaded");
            }
        })
        .build()?;
    crate::phases::reached("window made");
    if theme.is_none() && window.theme().is_ok_and(|theme| theme == Theme::Dark) {
        window.set_background_color(Some(DARK))?;
    }
    Ok(window)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_window_has_the_colours_of_the_page() {
        let css = include_str!("../../ui/src/app.css");
        let colours: Vec<_> = css.lines().filter_map(|l| l.trim().strip_prefix("--bg: ")).collect();
        let hex = |Color(r, g, b, _)| format!("#{r:02x}{g:02x}{b:02x};");
        assert_eq!(colours, [hex(background(Theme::Light)), hex(background(Theme::Dark))]);
    }

    #[test]
    fn the_theme_is_found_again_and_anything_else_is_the_systems() {
        let folder = tempfile::tempdir().unwrap();
        let database = folder.path().join("tandem.db");
        assert_eq!(kept_theme(&database), None);
        for (word, theme) in [
            ("dark", Some(Theme::Dark)),
            ("light", Some(Theme::Light)),
            ("system", None),
            ("\"); alert(1)", None),
        ] {
            keep_theme(&database, word);
            assert_eq!(kept_theme(&database), theme);
        }
        assert!(script(None).contains("prefers-color-scheme"));
        assert!(script(Some(Theme::Dark)).contains("true ? 'dark'"));
    }
}
