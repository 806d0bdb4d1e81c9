import com.zaxxer.hikari.HikariConfig;
import com.zaxxer.hikari.HikariDataSource;
import java.io.BufferedReader;
import java.io.InputStreamReader;
import java.sql.Connection;
import java.sql.DriverManager;
import java.sql.ResultSet;
import java.sql.SQLException;
import java.sql.Statement;
import java.util.Properties;

/**
 * HikariCP through a grant's end and beyond, and the driver's choice of a host. A line from standard input tells it to go on: first
 * when the grant is about to end, then when there is a new one.
 */
public class Pool {
    public static void main(String[] args) throws Exception {
        for (String type : new String[] {"any", "primary", "master", "preferSecondary", "preferPrimary"}) {
            Properties p = new Properties();
            p.setProperty("user", env("ENDING_USER"));
            p.setProperty("password", env("PASSWORD"));
            p.setProperty("sslmode", "verify-full");
            p.setProperty("sslrootcert", env("CA"));
            p.setProperty("targetServerType", type);
            String host = env("HOST") + ":" + env("PORT");
            try (Connection c = DriverManager.getConnection("jdbc:postgresql://localhost:1," + host + "/" + env("DATABASE"), p)) {
                report("host " + type, value(c, "SELECT 1").equals("1"), "");
            }
        }

        BufferedReader in = new BufferedReader(new InputStreamReader(System.in));
        HikariConfig config = new HikariConfig();
        config.setJdbcUrl("jdbc:postgresql://" + env("HOST") + ":" + env("PORT") + "/" + env("DATABASE")
            + "?sslmode=verify-full&sslrootcert=" + env("CA"));
        config.setUsername(env("ENDING_USER"));
        config.setPassword(env("PASSWORD"));
        config.setMaximumPoolSize(3);
        config.setConnectionTimeout(1000);
        try (HikariDataSource pool = new HikariDataSource(config)) {
            Connection running = pool.getConnection();
            System.out.println("end");
            long since = System.nanoTime();
            SQLException e = error(() -> value(running, "SELECT pg_sleep(60)"));
            report("running", e.getSQLState().equals("57P01") && seconds(since) < 20, e.getMessage());
            running.close();

            since = System.nanoTime();
            e = error(() -> pool.getConnection());
            String why = e + " caused by " + e.getCause();
            report("refused", seconds(since) < 5 && why.contains("no live grant"), why + " after " + seconds(since) + " s");

            System.out.println("again");
            in.readLine();
            try (Connection c = pool.getConnection()) {
                report("again", value(c, "SELECT 1").equals("1"), "");
            }
        }
    }

    private interface Body {
        Object run() throws SQLException;
    }

    private static SQLException error(Body body) {
        try {
            return new SQLException("no error: " + body.run(), "00000");
        } catch (SQLException e) {
            return e;
        }
    }

    private static String value(Connection c, String sql) throws SQLException {
        try (Statement s = c.createStatement(); ResultSet r = s.executeQuery(sql)) {
            r.next();
            return r.getString(1);
        }
    }

    private static double seconds(long since) {
        return (System.nanoTime() - since) / 1e9;
    }

    private static String env(String name) {
        return System.getenv("HOURGATE_" + name);
    }

    private static void report(String name, boolean ok, String why) {
        System.out.println((ok ? "ok " : "FAIL ") + name + (ok ? "" : ": " + why));
    }
}
