//! Programs under test, from a program that enters a world as `tencrypt demo` does. Without the test harness, since
//! this executable is the program under test as well.

use std::ffi::OsStr;
use std::path::Path;
use std::time::Duration;

use tencrypt_lab::{Entered, Error, NetNs, Program, Signal, enter, inside, run_program};

const LIMIT: Duration = Duration::from_secs(20);

fn main() {
    match std::env::args().nth(1).as_deref() {
        Some("wait") => wait(),
        Some("devices") => print!("{}", std::fs::read_to_string("/proc/self/net/dev").unwrap()),
        Some("variable") => println!("{}", std::env::var("TENCRYPT_LAB_GREETING").unwrap_or_default()),
        Some("fail") => {
            eprintln!("no: not today");
            std::process::exit(3);
        }
        _ => match enter(Duration::from_secs(60)).unwrap() {
            Entered::Inside => checks(),
            Entered::Over(code) => {
                assert!(!inside());
                assert_eq!(code, 7, "the world's exit code arrives");
                println!("programs under test: ok");
            }
        },
    }
}

fn wait() {
    assert!(!inside(), "the role of a world is not handed on");
    println!("starting");
    println!("ready");
    std::thread::sleep(Duration::from_secs(60));
}

fn checks() {
    let myself = std::env::current_exe().unwrap();
    ends_by_signals(&myself);
    tells_its_exit_code_and_errors(&myself);
    is_given_variables_besides_those_of_this_process(&myself);
    runs_inside_a_namespace(&myself);
    dies_when_dropped(&myself);
    std::process::exit(7);
}

fn ends_by_signals(myself: &Path) {
    use std::os::unix::process::ExitStatusExt;
    for (signal, number) in [(Signal::Term, 15), (Signal::Kill, 9)] {
        let mut program = Program::start(myself, ["wait"], None).unwrap();
        program.wait_ready(LIMIT).unwrap();
        assert_eq!(program.stdout(), "starting\nready\n");
        assert!(program.is_running());
        program.signal(Signal::Stop).unwrap();
        program.signal(Signal::Continue).unwrap();
        let early = program.wait(Duration::from_millis(20)).unwrap_err();
        assert!(matches!(early, Error::Timeout { .. }), "{early}");
        program.signal(signal).unwrap();
        assert_eq!(program.wait(LIMIT).unwrap().status.signal(), Some(number));
        program.signal(signal).expect("a signal to the dead is not an error");
    }
}

fn tells_its_exit_code_and_errors(myself: &Path) {
    let finished = run_program(myself, ["fail"], None, LIMIT).unwrap();
    assert_eq!((finished.status.code(), finished.stderr.as_str()), (Some(3), "no: not today\n"));
    let program = Program::start(myself, ["fail"], None).unwrap();
    let never = program.wait_ready(LIMIT).unwrap_err();
    assert!(matches!(never, Error::Ended(_)), "{never}");
    assert!(run_program(Path::new("/nonexistent"), ["x"], None, LIMIT).is_err());
}

fn is_given_variables_besides_those_of_this_process(myself: &Path) {
    for (environment, line) in
        [(&[("TENCRYPT_LAB_GREETING", OsStr::new("hello"))][..], "hello\n"), (&[], "\n")]
    {
        let mut program = Program::start_with(myself, ["variable"], environment, None).unwrap();
        assert_eq!(program.wait(LIMIT).unwrap().stdout, line);
    }
}

fn runs_inside_a_namespace(myself: &Path) {
    let netns = NetNs::new().unwrap();
    let finished = run_program(myself, ["devices"], Some(&netns), LIMIT).unwrap();
    assert!(finished.stdout.contains("lo:") && finished.stdout.lines().count() == 3, "{}", finished.stdout);
}

fn dies_when_dropped(myself: &Path) {
    let program = Program::start(myself, ["wait"], None).unwrap();
    program.wait_ready(LIMIT).unwrap();
    let process = format!("/proc/{}", program.id());
    assert!(Path::new(&process).exists());
    drop(program);
    assert!(!Path::new(&process).exists());
}
