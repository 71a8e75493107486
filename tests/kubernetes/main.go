// One binary with a name for each program of a Kubernetes cluster; `cluster.py` starts it by those names.
package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"

	"github.com/coredns/caddy"
	"github.com/coredns/coredns/core/dnsserver"
	_ "github.com/coredns/coredns/plugin/errors"
	_ "github.com/coredns/coredns/plugin/kubernetes"
	"github.com/spf13/cobra"
	"go.etcd.io/etcd/server/v3/etcdmain"
	"k8s.io/component-base/cli"
	_ "k8s.io/component-base/logs/json/register"
	_ "k8s.io/component-base/metrics/prometheus/clientgo"
	_ "k8s.io/component-base/metrics/prometheus/version"
	apiserver "k8s.io/kubernetes/cmd/kube-apiserver/app"
	manager "k8s.io/kubernetes/cmd/kube-controller-manager/app"
	proxy "k8s.io/kubernetes/cmd/kube-proxy/app"
	scheduler "k8s.io/kubernetes/cmd/kube-scheduler/app"
	kubelet "k8s.io/kubernetes/cmd/kubelet/app"
)

var programs = map[string]func(){
	"coredns":                 dns,
	"etcd":                    func() { etcdmain.Main(os.Args) },
	"kube-apiserver":          func() { run(apiserver.NewAPIServerCommand()) },
	"kube-controller-manager": func() { run(manager.NewControllerManagerCommand()) },
	"kube-proxy":              func() { run(proxy.NewProxyCommand()) },
	"kube-scheduler":          func() { run(scheduler.NewSchedulerCommand()) },
	"kubelet":                 func() { run(kubelet.NewKubeletCommand(context.Background())) },
}

func main() {
	program, known := programs[filepath.Base(os.Args[0])]
	if !known {
		fail(fmt.Errorf("no program is called %s", os.Args[0]))
	}
	program()
}

func run(command *cobra.Command) {
	os.Exit(cli.Run(command))
}

// dns serves the Corefile named by the one argument. CoreDNS's own main has plug-ins of every cloud, which are not needed here.
func dns() {
	text, err := os.ReadFile(os.Args[1])
	fail(err)
	dnsserver.Directives = []string{"errors", "kubernetes"}
	caddy.TrapSignals()
	server, err := caddy.Start(caddy.CaddyfileInput{Contents: text, Filepath: os.Args[1], ServerTypeName: "dns"})
	fail(err)
	server.Wait()
}

func fail(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}
