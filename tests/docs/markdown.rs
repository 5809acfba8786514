//! Pages in Markdown, taken apart.

use pulldown_cmark::{CodeBlockKind, Event, Options, Parser, Tag, TagEnd};
use std::fs;
use std::path::{Path, PathBuf};

/// README.md, or a page below docs/.
pub struct Page {
    /// Its path in the repository.
    pub name: String,
    pub text: String,
}

/// A fenced block that is not the output of another one.
pub struct Block {
    pub language: String,
    pub text: String,
    /// Its line in the page.
    pub line: usize,
    /// The text block right after it: its output.
    pub output: Option<String>,
}

impl Page {
    pub fn read(name: &str) -> Page {
        let text = fs::read_to_string(root().join(name)).unwrap_or_else(|error| panic!("{name}: {error}"));
        Page { name: name.to_owned(), text }
    }

    /// README.md and all pages below docs/.
    pub fn all() -> Vec<Page> {
        let pages = glob::glob(&root().join("docs/**/*.md").to_string_lossy()).expect("a pattern").flatten();
        let pages = pages.map(|path| path.strip_prefix(root()).expect("below it").to_string_lossy().into_owned());
        std::iter::once("README.md".to_owned()).chain(pages).map(|name| Page::read(&name)).collect()
    }

    fn events(&self) -> impl Iterator<Item = Event<'_>> {
        Parser::new_ext(&self.text, Options::ENABLE_TABLES)
    }

    pub fn blocks(&self) -> Vec<Block> {
        let mut blocks: Vec<Block> = Vec::new();
        let (mut open, mut follows): (Option<Block>, bool) = (None, false);
        for (event, place) in Parser::new_ext(&self.text, Options::ENABLE_TABLES).into_offset_iter() {
            match (event, &mut open) {
                (Event::Start(Tag::CodeBlock(CodeBlockKind::Fenced(info))), _) => {
                    let line = self.text[..place.start].lines().count() + 1;
                    open = Some(Block { language: info.to_string(), text: String::new(), line, output: None });
                }
                (Event::Text(text), Some(block)) => block.text += &text,
                (Event::End(TagEnd::CodeBlock), _) => {
                    let block = open.take();
                    let answered = blocks.last_mut().filter(|last| follows && last.output.is_none());
                    match (block, answered) {
                        (Some(block), Some(last)) if block.language == "text" => last.output = Some(block.text),
                        (Some(block), _) => blocks.push(block),
                        // An indented block.
                        (None, _) => {}
                    }
                    follows = true;
                }
                (_, Some(_)) => {}
                (_, None) => follows = false,
            }
        }
        blocks
    }

    /// The cells of the first table under a heading, without its header. None if there is no such heading.
    pub fn table(&self, heading: &str) -> Option<Vec<Vec<String>>> {
        let mut lines = self.text.lines().skip_while(|line| !is_heading(line, heading));
        lines.next()?;
        let lines = lines.skip_while(|line| !line.starts_with('|')).skip(2).take_while(|line| line.starts_with('|'));
        Some(lines.map(cells).collect())
    }

    /// Targets of links and images.
    pub fn links(&self) -> Vec<String> {
        let target = |event| match event {
            Event::Start(Tag::Link { dest_url, .. } | Tag::Image { dest_url, .. }) => Some(dest_url.to_string()),
            _ => None,
        };
        self.events().filter_map(target).collect()
    }

    /// The anchors that GitHub gives to the headings.
    pub fn anchors(&self) -> Vec<String> {
        let mut anchors: Vec<String> = Vec::new();
        let mut heading: Option<String> = None;
        for event in self.events() {
            match event {
                Event::Start(Tag::Heading { .. }) => heading = Some(String::new()),
                Event::Text(text) | Event::Code(text) => {
                    if let Some(heading) = &mut heading {
                        heading.push_str(&text);
                    }
                }
                Event::End(TagEnd::Heading(_)) => {
                    let anchor = anchor(&heading.take().unwrap_or_default());
                    let numbered = (1..).map(|number| format!("{anchor}-{number}"));
                    let mut names = std::iter::once(anchor.clone()).chain(numbered);
                    let free = names.find(|name| !anchors.contains(name));
                    anchors.extend(free);
                }
                _ => {}
            }
        }
        anchors
    }

    /// The path that a link of this page leads to.
    pub fn resolve(&self, target: &str) -> PathBuf {
        let folder = Path::new(&self.name).parent().expect("a file");
        if target.is_empty() { root().join(&self.name) } else { root().join(folder).join(target) }
    }
}

pub fn root() -> &'static Path {
    xtask::workspace::root()
}

fn is_heading(line: &str, heading: &str) -> bool {
    line.starts_with('#') && line.trim_start_matches('#').trim() == heading
}

fn cells(line: &str) -> Vec<String> {
    line.trim_matches('|').split('|').map(|cell| cell.trim().to_owned()).collect()
}

fn anchor(heading: &str) -> String {
    let kept = heading.to_lowercase();
    let kept = kept.chars().filter(|c| c.is_alphanumeric() || " -_".contains(*c));
    kept.map(|c| if c == ' ' { '-' } else { c }).collect()
}

/// The texts in backticks.
pub fn code(cell: &str) -> Vec<String> {
    cell.split('`').skip(1).step_by(2).map(str::to_owned).collect()
}
