// A server, with a worker thread, a child process at a channel and a program at pipes, each of which counts.
const { Worker, isMainThread, parentPort } = require('worker_threads');
const child = require('child_process');

if (!isMainThread) {
    parentPort.on('message', (n) => setTimeout(() => parentPort.postMessage(n + 1), 2));
} else if (process.argv[2] === 'child') {
    process.on('message', (n) => process.send(n + 1));
} else {
    const counts = { worker: 0, child: 0, pipe: 0 };
    const worker = new Worker(__filename);
    worker.on('message', (n) => { counts.worker = n; worker.postMessage(n); });
    worker.postMessage(0);
    const forked = child.fork(__filename, ['child']);
    forked.on('message', (n) => { counts.child = n; setTimeout(() => forked.send(n), 2); });
    forked.send(0);
    const cat = child.spawn('cat');
    cat.stdout.on('data', (data) => {
        counts.pipe += data.length;
        setTimeout(() => cat.stdin.write(data), 2);
    });
    cat.stdin.write('hello');
    require('fs').watch('.', () => {});
    const server = require('http').createServer((request, response) => {
        const text = String(counts[request.url.slice(1)] ?? 'a page');
        response.writeHead(200, { 'Content-Length': text.length });
        response.end(text);
    });
    server.keepAliveTimeout = 1000000;
    server.listen(Number(process.argv[2]), '127.0.0.1');
}
