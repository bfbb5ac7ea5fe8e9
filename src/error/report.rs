//! An error as a person reads it: what is wrong, the line with the place underlined, what to do.

use super::{Error, Excerpt};
use annotate_snippets::renderer::DecorStyle;
use annotate_snippets::{AnnotationKind, Group, Level, Renderer, Snippet};

/// A line longer than this is shown in part.
const WIDTH: usize = 120;

/// All of `error`, one mistake after the other, and how many there are if it is not one; with colours for a terminal.
pub fn report(error: &Error, colour: bool) -> String {
    let renderer = if colour { Renderer::styled() } else { Renderer::plain() };
    let renderer = renderer.decor_style(DecorStyle::Ascii).term_width(WIDTH);
    let mut text = String::new();
    let mut count = 0;
    for error in error.each() {
        let mut title = Group::with_title(Level::ERROR.primary_title(error.title()));
        if let Some(excerpt) = error.excerpt() {
            title = title.element(snippet(excerpt));
        }
        let help = error.advice().map(|advice| Group::with_title(Level::HELP.secondary_title(advice)));
        let groups: Vec<Group> = [title].into_iter().chain(help).collect();
        if count > 0 {
            text.push('\n');
        }
        // groups of one report are tied together by a line, which only an excerpt needs
        let reports = if error.excerpt().is_some() { 1 } else { groups.len() };
        for report in groups.chunks(groups.len() / reports) {
            text.push_str(&renderer.render(report));
            text.push('\n');
        }
        count += 1;
    }
    if count > 1 {
        text.push_str(&format!("\n{count} errors\n"));
    }
    text
}

fn snippet(excerpt: &Excerpt) -> Snippet<'_, annotate_snippets::Annotation<'_>> {
    let byte = |column: usize| excerpt.text.char_indices().nth(column).map_or(excerpt.text.len(), |(at, _)| at);
    let start = excerpt.column - 1;
    let span = byte(start)..byte(start + excerpt.length);
    Snippet::source(excerpt.text.as_str())
        .line_start(excerpt.line)
        .path(excerpt.file.as_str())
        .annotation(AnnotationKind::Primary.span(span))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(text: &str, column: usize, length: usize, expected: &str) {
        let excerpt = Excerpt { file: "p.sql".into(), line: 7, column, length, text: text.into() };
        let shown = report(&Error::invalid("unknown option 'topc'").at(excerpt).help("did you mean 'topic'?"), false);
        assert_eq!(shown, expected, "it is\n{shown}");
    }

    #[test]
    fn the_place_is_underlined_between_what_is_wrong_and_what_to_do() {
        let expected = "\
error: unknown option 'topc'
 --> p.sql:7:3
  |
7 |   'topc' = 'words',
  |   ^^^^^^
  |
help: did you mean 'topic'?
";
        check("  'topc' = 'words',", 3, 6, expected);
    }

    #[test]
    fn tabs_wide_characters_and_the_end_of_the_line_are_underlined_where_they_are() {
        let tab = "error: unknown option 'topc'\n --> p.sql:7:2\n  |\n7 |     'topc'\n  |     ^^^^^^\n  |\nhelp: did you mean 'topic'?\n";
        check("\t'topc'", 2, 6, tab);
        let wide = "error: unknown option 'topc'\n --> p.sql:7:4\n  |\n7 | 词ü 'topc'\n  |     ^^^^^^\n  |\nhelp: did you mean 'topic'?\n";
        check("词ü 'topc'", 4, 6, wide);
        let end =
            "error: unknown option 'topc'\n --> p.sql:7:3\n  |\n7 | ab\n  |   ^\n  |\nhelp: did you mean 'topic'?\n";
        check("ab", 3, 1, end);
    }

    #[test]
    fn several_mistakes_are_counted() {
        let error = Error::join(vec![Error::invalid("one"), Error::invalid("two").help("mend it")]).unwrap();
        assert_eq!(report(&error, false), "error: one\n\nerror: two\nhelp: mend it\n\n2 errors\n");
    }
}
