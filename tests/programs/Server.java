import com.sun.net.httpserver.HttpServer;
import java.net.InetSocketAddress;
import java.util.ArrayList;
import java.util.concurrent.Executors;
import java.util.concurrent.atomic.AtomicLong;

/** A server whose threads make garbage, and count. */
public class Server {
    public static void main(String[] arguments) throws Exception {
        AtomicLong count = new AtomicLong();
        for (int i = 0; i < 2; i++) {
            Thread thread = new Thread(() -> {
                ArrayList<byte[]> kept = new ArrayList<>();
                while (true) {
                    kept.add(new byte[10000]);
                    if (kept.size() > 1000) kept.clear();
                    count.incrementAndGet();
                    try { Thread.sleep(0, 100000); } catch (InterruptedException e) { return; }
                }
            });
            thread.setDaemon(true);
            thread.start();
        }
        int port = Integer.parseInt(arguments[0]);
        HttpServer server = HttpServer.create(new InetSocketAddress("127.0.0.1", port), 0);
        server.createContext("/", exchange -> {
            byte[] text = Long.toString(count.get()).getBytes();
            exchange.sendResponseHeaders(200, text.length);
            exchange.getResponseBody().write(text);
            exchange.close();
        });
        byte[] own = Long.toString(ProcessHandle.current().pid() ^ System.nanoTime()).getBytes();
        server.createContext("/own", exchange -> {
            exchange.sendResponseHeaders(200, own.length);
            exchange.getResponseBody().write(own);
            exchange.close();
        });
        server.setExecutor(Executors.newFixedThreadPool(4));
        server.start();
    }
}
