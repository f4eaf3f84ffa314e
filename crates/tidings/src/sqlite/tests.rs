//! Statements that are used again.

use rusqlite::StatementStatus;

use super::*;

#[test]
fn a_prepared_statement_keeps_its_plan_in_the_next_transaction() {
    let directory = tempfile::tempdir().unwrap();
    let file = SqliteFile::open(directory.path(), "plans").unwrap();
    let tables = "CREATE TABLE numbered (stream TEXT NOT NULL, seq INTEGER NOT NULL);
        CREATE UNIQUE INDEX numbered_stream ON numbered (stream, seq)";
    let prepared_again = |connection: &Connection| {
        let sql = "SELECT max(seq) FROM numbered WHERE stream = ?1";
        for stream in ["a", "b", "c"] {
            connection.execute_batch("BEGIN").unwrap();
            let max = |row: &rusqlite::Row<'_>| row.get::<_, Option<i64>>(0);
            connection.prepare_cached(sql).unwrap().query_row([stream], max).unwrap();
            connection.execute_batch("COMMIT").unwrap();
        }
        connection.prepare_cached(sql).unwrap().get_status(StatementStatus::RePrepare)
    };
    let by_writer = file.set_up(|connection| {
        connection.execute_batch(tables).unwrap();
        Ok(prepared_again(connection))
    });
    assert_eq!((by_writer.unwrap(), prepared_again(&file.reader().unwrap())), (0, 0));
}
