package capnweb

import (
	"fmt"
	"strings"
	"testing"
)

// What the constructors of Node 20 take and refuse, as far as peers send it.
func TestURLs(t *testing.T) {
	for _, text := range []string{
		"http://h/", "https://example.com/a?b=1#c", "HTTPS://Example.COM", "http://u:p@h:8080/", "http://a..b/", "http://a_b/", "http://1.2.3.4/",
		"http://foo.0b1/", "http://[::1]:80/", "http://[::ffff:102:304]/", "http://xn--bcher-kva.example/", "http://a,b/", "http://h/a b", "http://h?x",
		"ws://h", "ftp://h/", "file:///x", "file://", "file://host/x", "file://[::1]/", "mailto:a@b", "data:text/plain,a b", "javascript:alert(1)", "urn:uuid:1",
		"x:", "x://", "x://h:80/p", "x+y-1.z://h%41/", "blob:http://x/y", "about:blank",
	} {
		if !validURL(text) {
			t.Errorf("%q is refused", text)
		}
	}
	for _, text := range []string{
		"", "nope", "/p", "//h", ":", "1x://h", "_x://h", "http:", "http://", "http:///", "http://?x", "http://u@/", "http://:80/", "http://h:99999/", "http://h:x/",
		"http://1.2.3.256/", "http://1.2.3.4.5/", "http://foo.0x4/", "http://a.08/", "http://a b/", "http://a^b/", "http://a|b/", "http://a<b/", "http://%00/",
		"http://[::g]/", "http://[::1%25eth0]/", "http://[::1/", "http://[1:2]/", "http://::1]/", "file://host:80/x", "x://a b/", "x://a^b", "x://[zz]", "x://a\\b", "x://h:99999",
		"http://h/\n", "http://h/\x00",
	} {
		if validURL(text) {
			t.Errorf("%q is taken", text)
		}
	}
}

func TestObjectsOfHTTP(t *testing.T) {
	const long = `["request","http://h/",{"method":"PUT","headers":[["a","b"]],"redirect":"manual","mode":"cors","credentials":"include","cache":"no-store","referrer":"http://r/","referrerPolicy":"origin","integrity":"x","keepalive":true}]`
	for in, out := range map[string]string{ // "": as it came
		`["headers",[["a","1"],["B-c","ü \t"]]]`: "",
		`["headers",[]]`:             "",
		`["request","http://h/",{}]`: "",
		long:                         "",
		`["request","http://h/",{"signal":5,"window":"x","dispatcher":7,"cf":{"a":[1]},"unknown":"y"}]`: `["request","http://h/",{}]`,
		`["request","http://h/",{"method":"post","body":"\ud800"}]`:                                     "",
		`["request","http://h/",{"method":"POST","body":["bytes","AA"]}]`:                               "",
		`["request","http://h/",{"mode":"same-origin","cache":"only-if-cached"}]`:                       "",
		`["response",null,{}]`: "",
		`["response","text",{"status":404,"statusText":"Not at all","headers":[["a","b"]],"url":"x","cf":null}]`: `["response","text",{"status":404,"statusText":"Not at all","headers":[["a","b"]]}]`,
		`["response",null,{"status":204}]`: "",
	} {
		if out == "" {
			out = in
		}
		s, tp, _ := testSession(t)
		say(t, s, `["push",["pipeline",0,["echo"],[`+in+`]]]`, `["pull",1]`)
		wantSent(t, tp, `["resolve",1,`+out+`]`)
	}
	for _, text := range []string{
		`["headers",[["a b","c"]]]`, `["headers",[["","c"]]]`, `["headers",[["a","x\ny"]]]`, `["headers",[["a","\u0000"]]]`, `["headers",[["a","漢"]]]`, `["headers",[["a:","c"]]]`, `["headers",5]`, `["headers",[["a",1]]]`,
		`["request","nope",{}]`, `["request","http://u:p@h/",{}]`, `["request","http://h/",5]`, `["request",5,{}]`,
		`["response",5,{}]`, `["response",["bytes","AAA","Int16Array"],{}]`, `["response",null,{"status":99}]`, `["response",null,{"status":"200"}]`, `["response",null,{"status":200.5}]`,
		`["response","x",{"status":204}]`, `["response","",{"status":304}]`, `["response",null,{"statusText":"a\nb"}]`, `["response",null,{"statusText":"漢"}]`, `["response",null,{"headers":[["a b","c"]]}]`,
	} {
		refused(t, text)
	}
	for _, init := range []string{
		`"method":"TRACE"`, `"method":"a b"`, `"method":""`, `"method":5`, `"redirect":"x"`, `"mode":"navigate"`, `"mode":"no-cors","method":"PUT"`, `"cache":"only-if-cached"`, `"cache":"x"`,
		`"credentials":"x"`, `"referrer":"x"`, `"referrerPolicy":"x"`, `"duplex":"full"`, `"integrity":5`, `"keepalive":1`, `"body":"x"`, `"body":"x","method":"head"`, `"body":5,"method":"POST"`,
		`"body":["date",5],"method":"POST"`, `"headers":{"a":"b"}`, `"headers":[["a b","c"]]`,
	} {
		refused(t, `["request","http://h/",{`+init+`}]`)
	}
}

// A request whose body flows can be made again by its receiver, which a plain one
// for the same message cannot.
func TestRequestWithStream(t *testing.T) {
	for init, ok := range map[string]bool{
		`"method":"POST"`: true, `"method":"POST","duplex":"half"`: true, `"method":"POST","keepalive":true`: false, `"method":"POST","mode":"no-cors"`: false, `"method":"GET"`: false,
	} {
		s, tp, _ := testSession(t)
		say(t, s, `["pipe"]`)
		err := s.Receive(nil, []byte(`["push",["pipeline",0,["echo"],[["request","http://h/",{`+init+`,"body":["readable",1]}]]]]`))
		if (err == nil) != ok {
			t.Errorf("%s: %v", init, err)
		}
		if ok {
			say(t, s, `["pull",2]`)
			if got := strings.Join(tp.waitFor(2), " "); !strings.Contains(got, `"duplex":"half"`) || !strings.Contains(got, `"body":["readable",1]`) {
				t.Errorf("%s: %s", init, got)
			}
		}
	}
}

func refused(t *testing.T, text string) {
	t.Helper()
	s, tp, _ := testSession(t)
	err := s.Receive(nil, []byte(fmt.Sprintf(`["push",["pipeline",0,["echo"],[%s]]]`, text)))
	if got := tp.waitFor(1); err == nil || len(got) != 1 || !strings.HasPrefix(got[0], `["abort",["error","TypeError",`) {
		t.Errorf("%s: %v, sent %s", text, err, got)
	}
	if exports, imports := s.Entries(); exports+imports != 0 {
		t.Errorf("%s: %d exports, %d imports", text, exports, imports)
	}
}
