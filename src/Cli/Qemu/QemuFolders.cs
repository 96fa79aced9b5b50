using Bunraku.Machine.Virtio.Files;
using Bunraku.Platform;

namespace Bunraku.Cli.Qemu;

/// <summary>Folders of the host that a command line gives to the guest by 9p: -fsdev with a device, and -virtfs, which is both.</summary>
internal sealed class QemuFolders(QemuMachine machine)
{
    private readonly Dictionary<string, VmShare> _backends = new(StringComparer.Ordinal);

    /// <summary>-fsdev.</summary>
    public void AddBackend(string text)
    {
        QemuWords words = QemuWords.Parse("-fsdev", text, "fsdriver");
        string id = words.Need("id");
        VmShare folder = Backend(words);
        words.Finish();
        if (!_backends.TryAdd(id, folder)) throw new UsageException($"-fsdev: the name '{id}' is given twice");
    }

    /// <summary>-virtfs.</summary>
    public void AddPair(string text)
    {
        QemuWords words = QemuWords.Parse("-virtfs", text, "fsdriver");
        string tag = words.Need("mount_tag");
        words.Drop("id");
        VmShare folder = Backend(words);
        words.Finish();
        machine.Shares.Add(folder with { Tag = tag });
    }

    /// <summary>-device with a tag.</summary>
    public void AddDevice(QemuWords words)
    {
        string tag = words.Need("mount_tag"), id = words.Need("fsdev");
        words.Drop("vectors");
        if (!_backends.Remove(id, out VmShare? folder)) throw new UsageException($"-device: there is no -fsdev with id={id} without a device");
        machine.Shares.Add(folder with { Tag = tag });
    }

    private VmShare Backend(QemuWords words)
    {
        string driver = words.Need("fsdriver");
        if (driver != "local") throw new UsageException($"{words.Option}: not had: {driver}; 'local' is a folder of the host");
        bool isReadOnly = words.TakeSwitch("readonly") == true;
        // Numbers of files of several file systems are told apart, writes are the host's affair, and what a guest makes has the rights that it says.
        words.Drop("multidevs", "writeout", "fmode", "dmode", "sock_fd", "socket");
        foreach ((string key, string _) in words.TakeBeginning("throttling.")) machine.Notes.Add($"{words.Option}: '{key}' is passed over");
        return new VmShare(words.Need("path")) { Kind = ShareKind.NineP, ReadOnly = isReadOnly, Owners = Owners(words) };
    }

    private FileOwners Owners(QemuWords words)
    {
        switch (words.Take("security_model"))
        {
            case null or "none" or "mapped" or "mapped-xattr":
                return FileOwners.Mapped;
            case "mapped-file":
                machine.Notes.Add($"{words.Option}: security_model=mapped-file: owners are kept in extended attributes, not in files");
                return FileOwners.Mapped;
            case "passthrough":
                if (HostProcess.UserId == 0) return FileOwners.Host;
                machine.Notes.Add($"{words.Option}: security_model=passthrough needs root; owners are kept in extended attributes");
                return FileOwners.Mapped;
            case { } other:
                throw new UsageException(Nearest.Message($"security_model of {words.Option}", other, ["none", "mapped-xattr", "passthrough"]));
        }
    }
}
