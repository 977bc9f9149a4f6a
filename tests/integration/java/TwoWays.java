// Everything that pgjdbc does with the protocol, printed line by line: the test runs this twice and compares.
// usage: TwoWays URL   (with user and password in PGUSER and PGPASSWORD)

import java.io.ByteArrayInputStream;
import java.io.ByteArrayOutputStream;
import java.io.InputStream;
import java.math.BigDecimal;
import java.nio.charset.StandardCharsets;
import java.security.MessageDigest;
import java.sql.BatchUpdateException;
import java.sql.CallableStatement;
import java.sql.Connection;
import java.sql.DatabaseMetaData;
import java.sql.DriverManager;
import java.sql.PreparedStatement;
import java.sql.ResultSet;
import java.sql.ResultSetMetaData;
import java.sql.SQLException;
import java.sql.SQLWarning;
import java.sql.Savepoint;
import java.sql.Statement;
import java.sql.Timestamp;
import java.sql.Types;
import java.time.LocalDate;
import java.time.OffsetDateTime;
import java.time.ZoneOffset;
import java.util.Arrays;
import java.util.Properties;
import org.postgresql.PGConnection;
import org.postgresql.PGNotification;
import org.postgresql.PGStatement;
import org.postgresql.copy.CopyIn;
import org.postgresql.copy.CopyManager;
import org.postgresql.jdbc.PgStatement;
import org.postgresql.largeobject.LargeObject;
import org.postgresql.largeobject.LargeObjectManager;

public final class TwoWays {
    interface Part {
        void run(Connection connection) throws Exception;
    }

    private static String url;

    public static void main(String[] arguments) throws Exception {
        url = arguments[0];
        part("simple", "", TwoWays::simple);
        part("prepared", "prepareThreshold=1", TwoWays::prepared);
        part("prepared at once, binary", "prepareThreshold=-1&binaryTransfer=true", TwoWays::prepared);
        part("simple mode", "preferQueryMode=simple", TwoWays::prepared);
        part("extended for prepared", "preferQueryMode=extendedForPrepared", TwoWays::prepared);
        part("cache everything", "preferQueryMode=extendedCacheEverything&preparedStatementCacheQueries=4", TwoWays::prepared);
        part("types", "prepareThreshold=1", TwoWays::types);
        part("types as text", "binaryTransfer=false", TwoWays::types);
        part("batches", "prepareThreshold=1", TwoWays::batches);
        part("rewritten batches", "reWriteBatchedInserts=true", TwoWays::batches);
        part("batches autosave", "autosave=always", TwoWays::batches);
        part("cursors", "prepareThreshold=1", TwoWays::cursors);
        part("transactions", "prepareThreshold=1", TwoWays::transactions);
        part("transactions autosave", "autosave=conservative&prepareThreshold=1", TwoWays::transactions);
        part("changing tables", "prepareThreshold=1&autosave=conservative", TwoWays::changingTables);
        part("calls", "prepareThreshold=1", TwoWays::calls);
        part("copy", "", TwoWays::copy);
        part("large objects", "", TwoWays::largeObjects);
        part("notifications", "", TwoWays::notifications);
        part("timeouts", "prepareThreshold=1", TwoWays::timeouts);
        part("metadata", "", TwoWays::metadata);
    }

    private static void part(String name, String options, Part part) throws Exception {
        say("== " + name);
        Properties properties = new Properties();
        properties.setProperty("user", System.getenv("PGUSER"));
        properties.setProperty("password", System.getenv("PGPASSWORD"));
        try (Connection connection = DriverManager.getConnection(url + (url.contains("?") ? "&" : "?") + options, properties)) {
            try (Statement statement = connection.createStatement()) {
                statement.execute("drop schema if exists jdbc cascade; create schema jdbc; set search_path to jdbc, public; set client_min_messages to notice");
            }
            part.run(connection);
            if (!connection.getAutoCommit()) {
                connection.rollback();
            }
        }
    }

    private static void say(Object text) {
        System.out.println(text);
    }

    private static void fails(String what, Part part, Connection connection) throws Exception {
        try {
            part.run(connection);
            say(what + ": no error");
        } catch (BatchUpdateException error) {
            say(what + ": " + error.getSQLState() + " " + error.getMessage() + " " + Arrays.toString(error.getUpdateCounts()));
        } catch (SQLException error) {
            say(what + ": " + error.getSQLState() + " " + error.getMessage());
        }
    }

    private static void show(ResultSet rows) throws SQLException {
        ResultSetMetaData about = rows.getMetaData();
        StringBuilder line = new StringBuilder();
        for (int column = 1; column <= about.getColumnCount(); column++) {
            line.append(about.getColumnLabel(column)).append(':').append(about.getColumnTypeName(column)).append(' ');
        }
        say(line);
        int number = 0;
        while (rows.next()) {
            number++;
            if (number <= 10) {
                line.setLength(0);
                for (int column = 1; column <= about.getColumnCount(); column++) {
                    line.append(rows.getString(column)).append('|');
                }
                say(line);
            }
        }
        say(number + " rows");
    }

    private static void results(Statement statement, boolean hasRows) throws SQLException {
        while (true) {
            if (hasRows) {
                show(statement.getResultSet());
            } else {
                int count = statement.getUpdateCount();
                if (count == -1) {
                    return;
                }
                say("count " + count);
            }
            hasRows = statement.getMoreResults();
        }
    }

    private static void simple(Connection connection) throws Exception {
        try (Statement statement = connection.createStatement()) {
            results(statement, statement.execute("create table t (a int primary key, b text); insert into t values (1, 'x'), (2, 'y'); select * from t; update t set b = 'z'; select count(*) from t; delete from t where a = 1"));
            results(statement, statement.execute("do $$ begin raise notice 'first'; raise warning 'second %', 2; end $$"));
            for (SQLWarning warning = statement.getWarnings(); warning != null; warning = warning.getNextWarning()) {
                say(warning.getSQLState() + " " + warning.getMessage());
            }
            statement.executeUpdate("create table made (id serial primary key, name text)", Statement.NO_GENERATED_KEYS);
            say(statement.executeUpdate("insert into made (name) values ('a'), ('b')", Statement.RETURN_GENERATED_KEYS));
            show(statement.getGeneratedKeys());
        }
        fails("syntax", each -> each.createStatement().execute("selct 1"), connection);
        fails("second fails", each -> each.createStatement().execute("insert into t values (5); insert into t values (5); insert into t values (6)"), connection);
        try (Statement statement = connection.createStatement()) {
            show(statement.executeQuery("select * from t order by a"));
            statement.setMaxRows(7);
            show(statement.executeQuery("select id from orders order by id"));
            statement.execute("");
            say(connection.isValid(5));
        }
    }

    private static void prepared(Connection connection) throws Exception {
        try (PreparedStatement statement = connection.prepareStatement("select id, item, amount from orders where id > ? and item = ? order by id")) {
            for (int turn = 0; turn < 8; turn++) {
                statement.setInt(1, turn * 100);
                statement.setString(2, "lamp");
                show(statement.executeQuery());
            }
            say("server-side: " + statement.unwrap(PGStatement.class).isUseServerPrepare());
            say(statement.getParameterMetaData().getParameterCount() + " " + statement.getMetaData().getColumnName(3));
        }
        for (int turn = 0; turn < 12; turn++) {
            try (PreparedStatement statement = connection.prepareStatement("select ?::int + " + turn % 6)) {
                statement.setInt(1, turn);
                show(statement.executeQuery());
            }
        }
        try (PreparedStatement statement = connection.prepareStatement("select ?::int; select ?::text")) {
            statement.setInt(1, 7);
            statement.setString(2, "seven");
            results(statement, statement.execute());
        }
        fails("division", each -> {
            try (PreparedStatement statement = each.prepareStatement("select 1 / ?")) {
                statement.setInt(1, 1);
                show(statement.executeQuery());
                statement.setInt(1, 0);
                show(statement.executeQuery());
            }
        }, connection);
        fails("wrong type", each -> {
            try (PreparedStatement statement = each.prepareStatement("select * from orders where id = ?")) {
                statement.setString(1, "x");
                show(statement.executeQuery());
            }
        }, connection);
        try (Statement statement = connection.createStatement()) {
            statement.execute("deallocate all");
        }
        try (PreparedStatement statement = connection.prepareStatement("insert into made_later values (?)")) {
            statement.setInt(1, 1);
            statement.executeUpdate();
        } catch (SQLException error) {
            say(error.getSQLState());
        }
    }

    private static void types(Connection connection) throws Exception {
        try (Statement statement = connection.createStatement()) {
            statement.execute("create type mood as enum ('sad', 'ok'); create table t (a int2, b int8, c float8, d numeric, e text, f bytea, g timestamp, h timestamptz, i date, j boolean, k uuid, l jsonb, m int[], n mood)");
        }
        byte[] bytes = new byte[256];
        for (int index = 0; index < 256; index++) {
            bytes[index] = (byte) index;
        }
        try (PreparedStatement insert = connection.prepareStatement("insert into t values (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?::jsonb, ?, ?::mood)")) {
            for (int turn = 0; turn < 4; turn++) {
                insert.setShort(1, (short) turn);
                insert.setLong(2, Long.MAX_VALUE - turn);
                insert.setDouble(3, Math.PI * turn);
                insert.setBigDecimal(4, new BigDecimal("12345678901234567890.000000001"));
                insert.setString(5, "naïve ☃ 𝄞 'quoted' \\ back");
                insert.setBytes(6, bytes);
                insert.setTimestamp(7, Timestamp.valueOf("2026-03-29 01:59:59.123456"));
                insert.setObject(8, OffsetDateTime.of(2026, 3, 29, 1, 59, 59, 123456000, ZoneOffset.ofHours(5)));
                insert.setObject(9, LocalDate.of(1, 1, 1));
                insert.setBoolean(10, turn % 2 == 0);
                insert.setObject(11, new java.util.UUID(1, turn));
                insert.setString(12, "{\"a\": [1, null]}");
                insert.setArray(13, connection.createArrayOf("int4", new Integer[] {1, null, turn}));
                insert.setString(14, "ok");
                say(insert.executeUpdate());
            }
            for (int column = 1; column <= 14; column++) {
                insert.setNull(column, Types.NULL);
            }
            say(insert.executeUpdate());
        }
        try (PreparedStatement select = connection.prepareStatement("select * from t where a is null or a >= ? order by a")) {
            for (int turn = 0; turn < 3; turn++) {
                select.setInt(1, turn);
                ResultSet rows = select.executeQuery();
                while (rows.next()) {
                    say(rows.getLong(2) + " " + rows.getDouble(3) + " " + rows.getBigDecimal(4) + " " + rows.getString(5) + " " + Arrays.hashCode(rows.getBytes(6)) + " "
                        + rows.getTimestamp(7) + " " + rows.getObject(8, OffsetDateTime.class) + " " + rows.getObject(9, LocalDate.class) + " " + rows.getBoolean(10) + " "
                        + rows.getObject(11) + " " + rows.getString(12) + " " + rows.getString(13) + " " + rows.getObject(14));
                }
            }
        }
    }

    private static void batches(Connection connection) throws Exception {
        try (Statement statement = connection.createStatement()) {
            statement.execute("create table t (a int primary key, b text)");
        }
        for (boolean isAutocommit : new boolean[] {true, false}) {
            connection.setAutoCommit(isAutocommit);
            int base = isAutocommit ? 0 : 10000;
            try (PreparedStatement insert = connection.prepareStatement("insert into t (a, b) values (?, ?)")) {
                for (int row = 0; row < 3000; row++) {
                    insert.setInt(1, base + row);
                    insert.setString(2, "row " + row);
                    insert.addBatch();
                }
                int[] counts = insert.executeBatch();
                say(counts.length + " " + Arrays.hashCode(counts));
            }
            try (PreparedStatement insert = connection.prepareStatement("insert into t (a, b) values (?, ?)", new String[] {"a"})) {
                for (int row = 5000; row < 5010; row++) {
                    insert.setInt(1, base + row);
                    insert.setString(2, null);
                    insert.addBatch();
                }
                insert.executeBatch();
                show(insert.getGeneratedKeys());
            }
            fails("duplicate", each -> {
                try (PreparedStatement insert = each.prepareStatement("insert into t (a, b) values (?, ?)")) {
                    for (int row : new int[] {7000, 7001, 1, 7002}) {
                        insert.setInt(1, base + row);
                        insert.setString(2, "");
                        insert.addBatch();
                    }
                    insert.executeBatch();
                }
            }, connection);
            if (!isAutocommit) {
                fails("after", each -> each.createStatement().executeQuery("select 1"), connection);
                connection.rollback();
            }
            try (Statement statement = connection.createStatement()) {
                statement.addBatch("insert into t values (" + (base + 8000) + ", 'x')");
                statement.addBatch("update t set b = 'u' where a < 10");
                statement.addBatch("create table if not exists other (a int)");
                say(Arrays.toString(statement.executeBatch()));
                show(statement.executeQuery("select count(*), sum(a) from t"));
            }
        }
    }

    private static void cursors(Connection connection) throws Exception {
        connection.setAutoCommit(false);
        for (int size : new int[] {1, 7, 100, 5000}) {
            try (PreparedStatement statement = connection.prepareStatement("select id, repeat('x', id) as word from orders order by id")) {
                statement.setFetchSize(size);
                ResultSet rows = statement.executeQuery();
                long total = 0;
                while (rows.next()) {
                    total += rows.getInt(1) + rows.getString(2).length();
                    if (rows.getInt(1) == 500) {
                        try (Statement between = connection.createStatement()) {
                            show(between.executeQuery("select 'between'"));
                        }
                    }
                }
                say(size + " " + total);
            }
        }
        try (Statement one = connection.createStatement(); Statement two = connection.createStatement()) {
            one.setFetchSize(10);
            two.setFetchSize(15);
            ResultSet first = one.executeQuery("select id from orders order by id");
            ResultSet second = two.executeQuery("select id from customers order by id desc");
            long total = 0;
            while (first.next() && second.next()) {
                total = total * 31 + first.getInt(1) + second.getInt(1);
            }
            say(total);
        }
        try (Statement scroll = connection.createStatement(ResultSet.TYPE_SCROLL_INSENSITIVE, ResultSet.CONCUR_UPDATABLE)) {
            ResultSet rows = scroll.executeQuery("select id, name, email, ssn from customers order by id");
            rows.last();
            say(rows.getRow() + " " + rows.getString(2));
            rows.absolute(3);
            rows.updateString(2, "changed");
            rows.updateRow();
            rows.previous();
            say(rows.getString(2));
        }
        connection.rollback();
    }

    private static void transactions(Connection connection) throws Exception {
        try (Statement statement = connection.createStatement()) {
            statement.execute("create table t (a int primary key deferrable initially deferred)");
        }
        connection.setTransactionIsolation(Connection.TRANSACTION_SERIALIZABLE);
        connection.setAutoCommit(false);
        try (PreparedStatement insert = connection.prepareStatement("insert into t values (?)")) {
            insert.setInt(1, 1);
            insert.executeUpdate();
            Savepoint here = connection.setSavepoint("here");
            fails("in transaction", each -> each.createStatement().execute("select 1/0"), connection);
            fails("still", each -> each.createStatement().execute("select 1"), connection);
            connection.rollback(here);
            insert.setInt(1, 2);
            insert.executeUpdate();
            connection.commit();
            insert.setInt(1, 2);
            insert.executeUpdate();
        }
        fails("at commit", Connection::commit, connection);
        connection.rollback();
        connection.setReadOnly(true);
        fails("read only", each -> each.createStatement().execute("insert into t values (9)"), connection);
        connection.rollback();
        connection.setReadOnly(false);
        connection.setAutoCommit(true);
        show(connection.createStatement().executeQuery("select a from t order by a"));
    }

    private static void changingTables(Connection connection) throws Exception {
        try (Statement statement = connection.createStatement()) {
            statement.execute("create table t (a int); insert into t values (1)");
            try (PreparedStatement select = connection.prepareStatement("select * from t")) {
                for (int turn = 0; turn < 3; turn++) {
                    show(select.executeQuery());
                }
                statement.execute("alter table t add column b text default 'new'");
                fails("changed", each -> show(select.executeQuery()), connection);
                connection.setAutoCommit(false);
                show(select.executeQuery());
                statement.execute("alter table t add column c text default 'newer'");
                fails("changed in transaction", each -> show(select.executeQuery()), connection);
                connection.rollback();
                connection.setAutoCommit(true);
                statement.execute("discard all");
                statement.execute("set search_path to jdbc, public");
                show(select.executeQuery());
            }
        }
    }

    private static void calls(Connection connection) throws Exception {
        try (Statement statement = connection.createStatement()) {
            statement.execute("create function twice(a int) returns int language sql as 'select a * 2'; create procedure put(inout a int) language plpgsql as $$ begin a := a + 1; raise notice 'put %', a; end $$; "
                + "create function open_one() returns refcursor language plpgsql as $$ declare c refcursor; begin open c for select id from public.orders order by id limit 3; return c; end $$");
        }
        try (CallableStatement call = connection.prepareCall("{? = call twice(?)}")) {
            call.registerOutParameter(1, Types.INTEGER);
            for (int turn = 0; turn < 3; turn++) {
                call.setInt(2, turn);
                call.execute();
                say(call.getInt(1));
            }
        }
        try (PreparedStatement call = connection.prepareStatement("call put(?)")) {
            call.setInt(1, 41);
            results(call, call.execute());
            say(call.getWarnings());
        }
        connection.setAutoCommit(false);
        try (CallableStatement call = connection.prepareCall("{? = call open_one()}")) {
            call.registerOutParameter(1, Types.REF_CURSOR);
            call.execute();
            show((ResultSet) call.getObject(1));
        }
    }

    private static void copy(Connection connection) throws Exception {
        CopyManager copies = connection.unwrap(PGConnection.class).getCopyAPI();
        try (Statement statement = connection.createStatement()) {
            statement.execute("create table t (a int primary key, b text)");
        }
        StringBuilder text = new StringBuilder();
        for (int row = 0; row < 50000; row++) {
            text.append(row).append("\tword ").append(row * 31).append('\n');
        }
        say(copies.copyIn("copy t from stdin", new ByteArrayInputStream(text.toString().getBytes(StandardCharsets.UTF_8))));
        for (String form : new String[] {"text", "csv, header", "binary"}) {
            ByteArrayOutputStream out = new ByteArrayOutputStream();
            say(copies.copyOut("copy (select * from t order by a) to stdout (format " + form + ")", out));
            say(out.size() + " " + Arrays.toString(MessageDigest.getInstance("SHA-256").digest(out.toByteArray())));
        }
        fails("duplicate", each -> copies.copyIn("copy t from stdin", new ByteArrayInputStream("1\tx\n".getBytes())), connection);
        fails("malformed", each -> copies.copyIn("copy t from stdin", new ByteArrayInputStream("x\n".getBytes())), connection);
        CopyIn given = copies.copyIn("copy t from stdin");
        given.writeToCopy("900000\tgiven up\n".getBytes(), 0, 16);
        given.flushCopy();
        given.cancelCopy();
        fails("not a copy", each -> copies.copyIn("select 1"), connection);
        show(connection.createStatement().executeQuery("select count(*) from t"));
    }

    private static void largeObjects(Connection connection) throws Exception {
        connection.setAutoCommit(false);
        LargeObjectManager objects = connection.unwrap(PGConnection.class).getLargeObjectAPI();
        long oid = objects.createLO(LargeObjectManager.READWRITE);
        LargeObject object = objects.open(oid, LargeObjectManager.READWRITE);
        byte[] data = new byte[100000];
        for (int index = 0; index < data.length; index++) {
            data[index] = (byte) (index * 7);
        }
        object.write(data);
        object.seek64(50000, LargeObject.SEEK_SET);
        say(Arrays.hashCode(object.read(1000)) + " " + object.tell64() + " " + object.size64());
        object.truncate64(777);
        say(object.size64());
        object.seek(0);
        try (InputStream in = object.getInputStream()) {
            say(Arrays.hashCode(in.readAllBytes()));
        }
        object.close();
        objects.unlink(oid);
        fails("gone", each -> objects.open(4294967L, LargeObjectManager.READ), connection);
        connection.rollback();
        show(connection.createStatement().executeQuery("select 'after'"));
    }

    private static void notifications(Connection connection) throws Exception {
        PGConnection own = connection.unwrap(PGConnection.class);
        try (Statement statement = connection.createStatement()) {
            statement.execute("listen news");
            statement.execute("notify news, 'one'; select pg_notify('news', 'two')");
        }
        PGNotification[] found = own.getNotifications(5000);
        for (PGNotification each : found) {
            say(each.getName() + " " + each.getParameter() + " " + (each.getPID() == own.getBackendPID()));
        }
        say(own.getParameterStatus("server_encoding") + " " + own.getParameterStatus("TimeZone"));
    }

    private static void timeouts(Connection connection) throws Exception {
        for (int turn = 0; turn < 2; turn++) {
            fails("sleep", each -> {
                try (PreparedStatement statement = each.prepareStatement("select pg_sleep(?)")) {
                    statement.unwrap(PgStatement.class).setQueryTimeoutMs(500); // JDBC's own knows only whole seconds
                    statement.setInt(1, 30);
                    statement.executeQuery();
                }
            }, connection);
            show(connection.createStatement().executeQuery("select 'next'"));
        }
        try (Statement statement = connection.createStatement()) {
            Thread other = new Thread(() -> {
                try {
                    Thread.sleep(300);
                    statement.cancel();
                } catch (Exception error) {
                    say(error);
                }
            });
            other.start();
            fails("cancelled", each -> statement.executeQuery("select pg_sleep(30)"), connection);
            other.join();
            statement.cancel();
            show(statement.executeQuery("select 'after'"));
        }
    }

    private static void metadata(Connection connection) throws Exception {
        DatabaseMetaData about = connection.getMetaData();
        show(about.getTables(null, "public", "%", new String[] {"TABLE", "VIEW"}));
        show(about.getColumns(null, "public", "orders", "%"));
        show(about.getPrimaryKeys(null, "public", "orders"));
        show(about.getImportedKeys(null, "public", "orders"));
        show(about.getIndexInfo(null, "public", "customers", false, false));
        show(about.getSchemas());
        show(about.getTablePrivileges(null, "public", "customers"));
        show(about.getFunctions(null, "pg_catalog", "pg_sleep%"));
        show(about.getTypeInfo());
        say(about.getSQLKeywords());
        say(about.getMaxConnections());
    }
}
