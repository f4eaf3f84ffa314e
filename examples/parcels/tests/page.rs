//! The page that goes through this example shows its very code.

#[test]
fn every_block_of_the_page_is_in_the_sources() {
    let trimmed = |text: &str| text.lines().map(str::trim).collect::<Vec<_>>().join("\n");
    let sources = [include_str!("../src/main.rs"), include_str!("../src/carrier.rs")].map(trimmed).concat();
    let page = include_str!("../../../docs/own-service.md");
    for block in page.split("```rust\n").skip(1).filter_map(|rest| rest.split("\n```").next()) {
        assert!(sources.contains(&trimmed(block)), "no source has: {block}");
    }
}
