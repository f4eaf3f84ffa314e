use tidings::Service;

struct TeaMade;

fn main() {
    let _ = Service::new("drinkers").publishes::<TeaMade>();
}
