package main

import (
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"io"
	"os"

	"github.com/spf13/pflag"

	"github.com/hubd-dev/hubd/internal/rpc"
)

// tlsFiles are the flags for hubs at tls:// addresses. Each has a variable.
type tlsFiles struct{ ca, cert, key string }

func (f *tlsFiles) add(flags *pflag.FlagSet) {
	flags.StringVar(&f.ca, "ca-file", "", "`file` of the authorities that may have issued the hub's certificate; $HUBD_CA_FILE")
	flags.StringVar(&f.cert, "cert-file", "", "`file` of a certificate to show to the hub; $HUBD_CERT_FILE")
	flags.StringVar(&f.key, "key-file", "", "`file` of its key; $HUBD_KEY_FILE")
}

// config returns what the files say, nil when none is given.
func (f *tlsFiles) config(getenv func(string) string) (*tls.Config, error) {
	pick := func(flag, variable string) string {
		if flag != "" {
			return flag
		}
		return getenv(variable)
	}
	ca, cert, key := pick(f.ca, "HUBD_CA_FILE"), pick(f.cert, "HUBD_CERT_FILE"), pick(f.key, "HUBD_KEY_FILE")
	if ca == "" && cert == "" && key == "" {
		return nil, nil
	}
	config := &tls.Config{}
	if ca != "" {
		text, err := readPEM(ca)
		if err != nil {
			return nil, usageError{"--ca-file: " + err.Error(), ""}
		}
		config.RootCAs = x509.NewCertPool()
		if !config.RootCAs.AppendCertsFromPEM(text) {
			return nil, usageError{fmt.Sprintf("--ca-file: %s has no certificate", ca), ""}
		}
	}
	switch {
	case cert != "" && key == "":
		return nil, usageError{"--cert-file needs --key-file: the key of the certificate", "a file with both may be given twice; $HUBD_KEY_FILE says it, too"}
	case cert == "" && key != "":
		return nil, usageError{"--key-file needs --cert-file: the certificate of the key", "a file with both may be given twice; $HUBD_CERT_FILE says it, too"}
	case cert != "":
		pair, err := readPair(cert, key)
		if err != nil {
			return nil, usageError{"--cert-file, --key-file: " + err.Error(), "both are PEM files"}
		}
		config.Certificates = []tls.Certificate{pair}
	}
	return config, nil
}

func readPair(certFile, keyFile string) (tls.Certificate, error) {
	cert, err := readPEM(certFile)
	if err != nil {
		return tls.Certificate{}, err
	}
	key, err := readPEM(keyFile)
	if err != nil {
		return tls.Certificate{}, err
	}
	return tls.X509KeyPair(cert, key)
}

func readPEM(path string) ([]byte, error) {
	file, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	text, err := io.ReadAll(io.LimitReader(file, 1<<20))
	return rpc.SkipBOM(text), err
}
