// A server whose goroutines count, while it starts other programs.
package main

import (
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"sync/atomic"
	"time"
)

func main() {
	var count int64
	for i := 0; i < 4; i++ {
		go func() {
			for {
				atomic.AddInt64(&count, 1)
				time.Sleep(time.Millisecond)
			}
		}()
	}
	go func() {
		for {
			exec.Command("true").Run()
			time.Sleep(20 * time.Millisecond)
		}
	}()
	http.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprint(w, atomic.LoadInt64(&count))
	})
	http.ListenAndServe("127.0.0.1:"+os.Args[1], nil)
}
