import java.io.StringReader;
import java.io.StringWriter;
import java.sql.Connection;
import java.sql.DriverManager;
import java.sql.PreparedStatement;
import java.sql.ResultSet;
import java.sql.SQLException;
import java.sql.Statement;
import java.util.Properties;
import org.postgresql.PGConnection;
import org.postgresql.util.PSQLException;
import org.postgresql.util.ServerErrorMessage;

/** JDBC. */
public class Check {
    private static final String GREETING = "Grüße, \"naïve\" ☃";

    private interface Body {
        void run() throws Exception;
    }

    public static void main(String[] args) throws Exception {
        say("version " + org.postgresql.util.DriverInfo.DRIVER_VERSION + ", Java " + Runtime.version().feature());
        say("tls verify-full");
        Connection conn = connect(env("USER"), env("PASSWORD"));
        check("login", () -> {
            String role = (String) value(conn, "SELECT session_user::text");
            if (!role.startsWith("hg_alice_work_")) {
                throw new Exception("the session runs as " + role);
            }
        });
        check("parameters", () -> parameters(conn));
        check("rows", () -> rows(conn));
        check("copy-out", () -> {
            StringWriter out = new StringWriter();
            equal(conn.unwrap(PGConnection.class).getCopyAPI().copyOut("COPY customers TO STDOUT", out), 100L);
            equal(out.toString().lines().count(), 100L);
        });
        check("copy-in", () -> {
            conn.setAutoCommit(false);
            conn.unwrap(PGConnection.class).getCopyAPI().copyIn(
                "COPY orders (customer_id, note) FROM STDIN", new StringReader("1\tcopied\n2\tcopied\n3\tcopied\n"));
            equal(value(conn, "SELECT count(*) FROM orders WHERE note = 'copied'"), 3L);
            conn.rollback();
            conn.setAutoCommit(true);
        });
        check("transaction", () -> transaction(conn));
        check("error", () -> {
            equal(error(() -> value(conn, "SELECT * FROM no_such_table")).getSQLState(), "42P01");
            equal(value(conn, "SELECT 1"), 1);
        });
        check("cancel", () -> cancel(conn));
        check("wrong-password", () -> {
            PSQLException e = error(() -> connect(env("USER"), "wrong"));
            equal(e.getSQLState(), "28P01");
            equal(e.getServerErrorMessage().getMessage(), "password authentication failed for user \"" + env("USER") + "\"");
        });
        check("expired-grant", () -> expired());

        Connection running = connect(env("ENDING_USER"), env("PASSWORD"));
        Connection idle = connect(env("ENDING_USER"), env("PASSWORD"));
        say("end");
        check("end-running", () -> equal(error(() -> value(running, "SELECT pg_sleep(30)")).getSQLState(), "57P01"));
        Thread.sleep(1000); // until the other has ended, too
        check("end-idle", () -> equal(error(() -> value(idle, "SELECT 1")).getSQLState(), "57P01"));
    }

    private static Connection connect(String user, String password) throws SQLException {
        Properties p = new Properties();
        p.setProperty("user", user);
        p.setProperty("password", password);
        p.setProperty("sslmode", "verify-full");
        p.setProperty("sslrootcert", env("CA"));
        return DriverManager.getConnection(
            "jdbc:postgresql://" + env("HOST") + ":" + env("PORT") + "/" + env("DATABASE"), p);
    }

    /** More often than the driver's prepareThreshold, so that it goes over to named statements. */
    private static void parameters(Connection conn) throws Exception {
        try (PreparedStatement s = conn.prepareStatement("SELECT ?::int + 2, ?::text")) {
            for (int n = 0; n < 10; n++) {
                s.setInt(1, n);
                s.setString(2, GREETING);
                try (ResultSet r = s.executeQuery()) {
                    r.next();
                    equal(r.getInt(1), n + 2);
                    equal(r.getString(2), GREETING);
                }
            }
        }
    }

    /** All at once, and some at a time through a portal. */
    private static void rows(Connection conn) throws Exception {
        for (int fetchSize : new int[] {0, 7}) {
            conn.setAutoCommit(false);
            try (Statement s = conn.createStatement()) {
                s.setFetchSize(fetchSize);
                int n = 0;
                String name = "";
                try (ResultSet r = s.executeQuery("SELECT name FROM customers ORDER BY id")) {
                    while (r.next()) {
                        n++;
                        name = r.getString(1);
                    }
                }
                equal(n, 100);
                equal(name, "Customer 100");
            }
            conn.rollback();
            conn.setAutoCommit(true);
        }
    }

    private static void transaction(Connection conn) throws Exception {
        conn.setAutoCommit(false);
        try (Statement s = conn.createStatement()) {
            s.executeUpdate("UPDATE orders SET note = 'changed' WHERE id = 1");
            conn.rollback();
            equal(value(conn, "SELECT note FROM orders WHERE id = 1"), "Order 1");
            s.executeUpdate("UPDATE orders SET note = 'changed' WHERE id = 1");
            conn.commit();
            equal(value(conn, "SELECT note FROM orders WHERE id = 1"), "changed");
        }
        conn.rollback();
        conn.setAutoCommit(true);
    }

    private static void cancel(Connection conn) throws Exception {
        try (Statement s = conn.createStatement()) {
            new Thread(() -> {
                try {
                    Thread.sleep(500);
                    s.cancel();
                } catch (Exception e) {
                    e.printStackTrace();
                }
            }).start();
            equal(error(() -> s.execute("SELECT pg_sleep(30)")).getSQLState(), "57014");
        }
        equal(value(conn, "SELECT 1"), 1);
    }

    private static void expired() throws Exception {
        PSQLException e = error(() -> connect(env("EXPIRED_USER"), env("PASSWORD")));
        equal(e.getSQLState(), "28000");
        ServerErrorMessage m = e.getServerErrorMessage();
        equal(m.getMessage(), "no live grant for \"" + env("DATABASE") + "\"");
        contains(m.getDetail(), "last-week");
        contains(m.getHint(), "connect to: invoices");
        contains(e.getMessage(), m.getDetail()); // what people see who look at no fields
        contains(e.getMessage(), m.getHint());
    }

    private static Object value(Connection conn, String sql) throws SQLException {
        try (Statement s = conn.createStatement(); ResultSet r = s.executeQuery(sql)) {
            r.next();
            return r.getObject(1);
        }
    }

    private static void check(String name, Body body) {
        try {
            body.run();
            say("ok " + name);
        } catch (Exception e) {
            say("FAIL " + name + ": " + e.toString().replaceAll("\\s+", " "));
        }
    }

    private static PSQLException error(Body body) throws Exception {
        try {
            body.run();
        } catch (PSQLException e) {
            return e;
        }
        throw new Exception("no error");
    }

    private static void equal(Object got, Object want) throws Exception {
        if (!want.equals(got)) {
            throw new Exception("got " + got + ", want " + want);
        }
    }

    private static void contains(String text, String want) throws Exception {
        if (text == null || !text.contains(want)) {
            throw new Exception("no " + want + " in " + text);
        }
    }

    private static String env(String name) {
        return System.getenv("HOURGATE_" + name);
    }

    private static void say(String line) {
        System.out.println(line);
        System.out.flush();
    }
}
