import java.sql.Connection;
import java.sql.DriverManager;
import java.sql.PreparedStatement;
import java.sql.ResultSet;
import java.sql.SQLException;
import java.sql.Statement;
import java.util.Properties;

/** JDBC in database "hourgate", and what DBeaver sends of itself when it opens a connection and its tree. */
public class Console {
    /** DBeaver's statements, in its order: those that it needs and those that it can do without. */
    private static final String[] DBEAVER = {
        "SET extra_float_digits = 3", "SET application_name = 'DBeaver 23.3.0 - Main <hourgate>'", "SELECT version()",
        "SELECT current_schema(),session_user", "SHOW search_path",
        "SELECT n.oid,n.*,d.description FROM pg_catalog.pg_namespace n\nLEFT OUTER JOIN pg_catalog.pg_description d ON d.objoid=n.oid",
        "SELECT db.oid,db.* FROM pg_catalog.pg_database db WHERE datallowconn AND NOT datistemplate OR db.datname =$1 ORDER BY db.datname",
        "select * from pg_catalog.pg_settings where name='standard_conforming_strings'", "SELECT t.oid,t.* FROM pg_catalog.pg_type t",
        "SELECT reset_val FROM pg_catalog.pg_settings WHERE name = 'search_path'", "SELECT 1", "SHOW TRANSACTION ISOLATION LEVEL",
    };

    private interface Body {
        Object run() throws Exception;
    }

    public static void main(String[] args) throws Exception {
        check("refused", error(() -> connect("USER", "orders")), "28000", "no live grant");
        Connection conn = connect("USER", "hourgate");
        check("access", rows(conn, "SHOW ACCESS"), "can ask", "READ_WRITE", "orders");
        check("request", rows(conn, "REQUEST ? ON ? FOR ? REASON ?", "READ_WRITE", "orders", "1 hour", "it's late"), "pending", "it's late");
        check("own", error(() -> rows(conn, "APPROVE ?", "1")), "P0001", "nobody decides their own request");
        Connection other = connect("APPROVER", "hourgate");
        check("approve", rows(other, "APPROVE ?", 1L), "active");
        check("let-in", rows(connect("USER", "orders"), "SELECT count(*) FROM customers"), "100");
        check("catalog", error(() -> conn.getMetaData().getTables(null, null, "%", null).next()), "0A000", "statements about access only");
        for (String sql : DBEAVER) {
            String answer = error(() -> rows(conn, sql));
            if (!answer.startsWith("no error") && !answer.contains("0A000")) {
                System.out.println("FAIL catalog: " + sql + ": " + answer);
            }
        }
        conn.setAutoCommit(false);
        check("transaction", rows(conn, "SHOW REQUESTS"), "active");
        conn.commit();
        conn.setAutoCommit(true);
        if (!conn.isValid(5)) {
            System.out.println("FAIL transaction: the connection is not valid");
        }
        for (int i = 0; i < 10; i++) { // beyond prepareThreshold
            check("again", rows(conn, "SHOW REQUEST ?", "1"), "active");
        }
        check("end", rows(conn, "END ?", "1"), "ended by owner");
        check("end", error(() -> connect("USER", "orders")), "28000", "no live grant");
    }

    private static Connection connect(String user, String database) throws SQLException {
        Properties p = new Properties();
        p.setProperty("user", System.getenv("HOURGATE_" + user));
        p.setProperty("password", System.getenv("HOURGATE_PASSWORD"));
        p.setProperty("sslmode", "verify-full");
        p.setProperty("sslrootcert", System.getenv("HOURGATE_CA"));
        return DriverManager.getConnection(
            "jdbc:postgresql://" + System.getenv("HOURGATE_HOST") + ":" + System.getenv("HOURGATE_PORT") + "/" + database, p);
    }

    private static String rows(Connection conn, String sql, Object... args) throws SQLException {
        StringBuilder all = new StringBuilder();
        if (args.length == 0) {
            try (Statement s = conn.createStatement()) {
                if (s.execute(sql)) {
                    read(s.getResultSet(), all);
                }
            }
            return all.toString();
        }
        try (PreparedStatement s = conn.prepareStatement(sql)) {
            for (int i = 0; i < args.length; i++) {
                s.setObject(i + 1, args[i]);
            }
            read(s.executeQuery(), all);
        }
        return all.toString();
    }

    private static void read(ResultSet r, StringBuilder all) throws SQLException {
        while (r.next()) {
            for (int i = 1; i <= r.getMetaData().getColumnCount(); i++) {
                all.append(r.getString(i)).append('|');
            }
            all.append('\n');
        }
    }

    private static String error(Body body) {
        try {
            return "no error: " + body.run();
        } catch (SQLException e) {
            return e.getSQLState() + " " + e.getMessage();
        } catch (Exception e) {
            return e.toString();
        }
    }

    private static void check(String name, String got, String... wanted) {
        for (String w : wanted) {
            if (!got.contains(w)) {
                System.out.println("FAIL " + name + ": no " + w + " in " + got.replace('\n', ' '));
                return;
            }
        }
        System.out.println("ok " + name);
    }
}
