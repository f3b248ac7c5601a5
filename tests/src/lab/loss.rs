//! Losses between hosts that have power: one way, or between two of them only. All of them happen in the backbone.
//!
//! Every change is one transaction that makes the table as well, so nothing has to be known of what is there.

use anyhow::Result;

use super::{Host, Namespace};

/// Makes the table if it is missing. The chain is written anew each time, since rules would add up.
const TABLE: &str = "
add table inet loss
add set inet loss muted { type ifname; }
add set inet loss parted { type ifname . ifname; }
add chain inet loss forward { type filter hook forward priority filter; }
flush chain inet loss forward
add rule inet loss forward iifname @muted drop
add rule inet loss forward iifname . oifname @parted drop
";

/// Loses what comes from `hosts`.
pub fn mute(backbone: &Namespace, hosts: &[Host]) -> Result<()> {
    let element = |host: &Host| format!("add element inet loss muted {{ \"{}\" }}", host.far_end());
    change(backbone, hosts.iter().map(element))
}

/// Loses what `host` and `others` send each other.
pub fn part(backbone: &Namespace, host: &Host, others: &[Host]) -> Result<()> {
    let element = |from: &Host, to: &Host| {
        format!("add element inet loss parted {{ \"{}\" . \"{}\" }}", from.far_end(), to.far_end())
    };
    change(backbone, others.iter().flat_map(|other| [element(host, other), element(other, host)]))
}

/// Loses nothing any more.
pub fn end(backbone: &Namespace) -> Result<()> {
    change(backbone, ["delete table inet loss".to_owned()])
}

fn change(backbone: &Namespace, lines: impl IntoIterator<Item = String>) -> Result<()> {
    let mut script = TABLE.to_owned();
    for line in lines {
        script.push_str(&line);
        script.push('\n');
    }
    backbone.feed("nft", &["--file", "-"], &script)
}
