using System.Buffers.Binary;
using System.Diagnostics;
using System.Net.Sockets;
using System.Runtime.InteropServices;
using System.Text;
using Bunraku.Engines;
using Bunraku.Hypervisor;
using Bunraku.Machine.Pci;
using Bunraku.Machine.Virtio;
using Bunraku.Machine.Virtio.Files;
using Bunraku.Platform;

namespace Bunraku.Machine.Tests.Virtio;

/// <summary>
/// The file system device, Virtual I/O Device (VIRTIO) Version 1.3, section 5.11, and its FUSE server, after linux/fuse.h: what a driver asks for, seen from
/// the host.
/// </summary>
public sealed class FileSystemTests : IDisposable
{
    private const VirtioFeatures Plain = VirtioFeatures.Version1;
    private const ulong Root = NodeTable.RootId;
    private const uint ReadOnlyFlag = 0, WriteOnly = 1, ReadWrite = 2, Truncate = 0x200, Append = 0x400;

    private readonly HostFolder _host = new();

    public void Dispose() => _host.Dispose();

    private FuseGuest Guest(VirtioFeatures ring = Plain, int queues = 1) => new(new SharedFolder(_host.Path), ring, queues);

    private static byte[] Text(string text) => Encoding.UTF8.GetBytes(text);

    public static TheoryData<VirtioFeatures> Layouts() =>
        [Plain, Plain | VirtioFeatures.EventIndex, Plain | VirtioFeatures.RingPacked, Plain | VirtioFeatures.RingPacked | VirtioFeatures.EventIndex];

    /// <summary>Sections 5.11.1, 5.11.2 and 5.11.4: device ID, queues, tag padded with NUL, number of request queues.</summary>
    [Fact]
    public void Section_5_11_4_the_configuration_has_tag_and_queues()
    {
        using var guest = new FuseGuest(new SharedFolder(_host.Path), queues: 3, mounts: false);
        Assert.Equal(0x105Au, guest.Driver.Config(2, 2));
        Assert.Equal(4ul, guest.Driver.Common(18, 2));
        byte[] tag = [.. Enumerable.Range(0, 36).Select(n => (byte)guest.Driver.Device((uint)n, 1))];
        Assert.Equal([.. "tag"u8, .. new byte[33]], tag);
        Assert.Equal(3ul, guest.Driver.Device(36, 4));
        guest.Driver.WriteDevice(0, 1, 'x'); // read-only to the driver: section 5.11.4.1
        Assert.Equal((ulong)'t', guest.Driver.Device(0, 1));
        Assert.Equal(0ul, guest.Driver.Offered & 1); // no notifications
    }

    /// <summary>FUSE_INIT: versions and flags; nothing comes before it, or behind DESTROY.</summary>
    [Fact]
    public void A_connection_begins_with_INIT()
    {
        using var guest = new FuseGuest(new SharedFolder(_host.Path), mounts: false);
        Assert.Equal(Errno.Io, guest.Error(FuseOpcode.GetAttributes, Root, new byte[16]));
        Assert.Equal(Errno.Protocol, guest.Error(FuseOpcode.Init, 0, FuseGuest.Bytes(7u, 30u, 0u, 0u)));
        Assert.Equal(Errno.Protocol, guest.Error(FuseOpcode.Init, 0, FuseGuest.Bytes(6u, 99u, 0u, 0u)));
        Assert.Equal(Errno.Invalid, guest.Error(FuseOpcode.Init, 0, FuseGuest.Bytes(7u)));
        FuseInitOut newer = guest.Mount(major: 8, minor: 0);
        Assert.Equal(7u, newer.Major);
        Assert.Equal(Errno.Io, guest.Error(FuseOpcode.GetAttributes, Root, new byte[16])); // that was no connection yet
        FuseInitOut agreed = guest.Mount();
        Assert.Equal((7u, 1u << 20, (ushort)256, 131072u), (agreed.Major, agreed.MaxWrite, agreed.MaxPages, agreed.MaxReadahead));
        var features = (FuseFeature)agreed.Flags;
        Assert.True(features.HasFlag(FuseFeature.ParallelFolders | FuseFeature.BigWrites | FuseFeature.MaxPages | FuseFeature.AutoInvalidateData));
        Assert.False(features.HasFlag(FuseFeature.WritebackCache));
        Assert.Equal(0u, guest.Mount(flags: 0).Flags); // nothing that the guest does not know
        Assert.Equal((byte)0x40, (byte)(guest.Attributes(Root).Mode >> 8 & 0xF0));
        guest.Call(FuseOpcode.Destroy, 0, [], 0);
        Assert.Equal(Errno.Io, guest.Error(FuseOpcode.GetAttributes, Root, new byte[16]));
        Assert.False(guest.Device.Server.IsConnected);
    }

    [Theory, MemberData(nameof(Layouts))]
    public void Files_are_made_written_and_read(VirtioFeatures ring)
    {
        using FuseGuest guest = Guest(ring);
        ulong folder = FuseGuest.Entry(guest.Call(FuseOpcode.MakeFolder, Root, FuseGuest.Bytes(0x1EDu, 0x12u, "folder"), 128)).Node;
        (ulong node, ulong handle) = guest.Create(folder, "file");
        byte[] bytes = new byte[300_000];
        new Random(1).NextBytes(bytes);
        Assert.Equal((uint)bytes.Length, guest.Write(node, handle, 5, bytes));
        Assert.Equal([0, 0, 0, 0, 0, .. bytes], File.ReadAllBytes(_host["folder/file"]));
        Assert.Equal(bytes[100..1100], guest.Read(node, handle, 105, 1000));
        Assert.Equal(bytes[^10..], guest.Read(node, handle, (ulong)bytes.Length - 5, 1000)); // the end of the file
        Assert.Empty(guest.Read(node, handle, 1 << 30, 1000));
        File.AppendAllText(_host["folder/file"], "of the host");
        // O_APPEND goes to where the file ends now, whatever the guest knows; pages of its cache go where they belong.
        guest.Write(node, handle, 0, Text("+end"), flags: ReadWrite | Append);
        Assert.EndsWith("of the host+end", File.ReadAllText(_host["folder/file"]), StringComparison.Ordinal);
        guest.Write(node, handle, 0, Text("first"), FuseTransferIn.FromCache, ReadWrite | Append);
        Assert.Equal(Text("first"), File.ReadAllBytes(_host["folder/file"])[..5]);
        guest.Call(FuseOpcode.Flush, node, FuseGuest.Bytes(handle, 0ul, 0ul), 0);
        guest.Call(FuseOpcode.Sync, node, FuseGuest.Bytes(handle, 1u, 0u), 0);
        guest.Call(FuseOpcode.Release, node, FuseGuest.Bytes(handle, 0ul, 0ul), 0);
        Assert.Equal(Errno.BadDescriptor, guest.Error(FuseOpcode.Read, node, FuseGuest.Bytes(handle, 0ul, 5u, 0u, 0ul, 0u, 0u)));
        ulong again = guest.Open(node, WriteOnly | Truncate);
        Assert.Equal(0, new FileInfo(_host["folder/file"]).Length);
        Assert.Equal(Errno.BadDescriptor, guest.Error(FuseOpcode.Read, node, FuseGuest.Bytes(again, 0ul, 5u, 0u, 0ul, 0u, 0u)));
        ulong reader = guest.Open(node);
        Assert.Equal(Errno.BadDescriptor, guest.Error(FuseOpcode.Write, node, FuseGuest.WriteBody(reader, 0, [1])));
        // CREATE of what is there opens it, or does not with O_EXCL.
        (ulong same, _) = guest.Create(folder, "file");
        Assert.Equal(node, same);
        Assert.Equal(Errno.Exists, guest.Error(FuseOpcode.Create, folder, FuseGuest.Bytes(0xC2u, 0x81A4u, 0u, 0u, "file")));
        Assert.Equal(0u, guest.Driver.Common(20, 1) & (ulong)VirtioStatus.NeedsReset);
    }

    [Fact]
    public void Names_are_moved_linked_and_removed()
    {
        using FuseGuest guest = Guest();
        (ulong node, _) = guest.Create(Root, "a");
        File.WriteAllText(_host["a"], "A");
        FuseEntryOut linked = FuseGuest.Entry(guest.Call(FuseOpcode.Link, Root, FuseGuest.Bytes(node, "b"), 128));
        Assert.Equal((node, 2u), (linked.Node, linked.Attributes.Links));
        guest.Call(FuseOpcode.SymbolicLink, Root, FuseGuest.Bytes("link", "../outside/secret"), 128);
        ulong link = guest.Lookup(Root, "link").Node;
        Assert.Equal("../outside/secret", new FileInfo(_host["link"]).LinkTarget);
        Assert.Equal(Text("../outside/secret"), guest.Call(FuseOpcode.ReadLink, link, [], 4096));
        Assert.Equal(Errno.Invalid, guest.Error(FuseOpcode.ReadLink, node, []));
        guest.Call(FuseOpcode.Rename, Root, FuseGuest.Bytes(Root, "a", "c"), 0);
        Assert.Equal(Errno.Exists, guest.Error(FuseOpcode.Rename2, Root, FuseGuest.Bytes(Root, 1u, 0u, "c", "b"))); // RENAME_NOREPLACE
        File.WriteAllText(_host["d"], "D");
        guest.Call(FuseOpcode.Rename2, Root, FuseGuest.Bytes(Root, 2u, 0u, "c", "d"), 0); // RENAME_EXCHANGE
        Assert.Equal(("A", "D"), (File.ReadAllText(_host["d"]), File.ReadAllText(_host["c"])));
        Assert.Equal(Errno.Invalid, guest.Error(FuseOpcode.Rename2, Root, FuseGuest.Bytes(Root, 4u, 0u, "c", "d"))); // RENAME_WHITEOUT
        guest.Call(FuseOpcode.MakeFolder, Root, FuseGuest.Bytes(0x1EDu, 0u, "f"), 128);
        Assert.Equal(Errno.IsAFolder, guest.Error(FuseOpcode.Unlink, Root, FuseGuest.Bytes("f")));
        Assert.Equal(Errno.NotAFolder, guest.Error(FuseOpcode.RemoveFolder, Root, FuseGuest.Bytes("b")));
        guest.Call(FuseOpcode.RemoveFolder, Root, FuseGuest.Bytes("f"), 0);
        guest.Call(FuseOpcode.Unlink, Root, FuseGuest.Bytes("b"), 0);
        guest.Call(FuseOpcode.Unlink, Root, FuseGuest.Bytes("link"), 0);
        Assert.Equal(["c", "d"], Directory.GetFileSystemEntries(_host.Path).Select(Path.GetFileName).Order());
        Assert.Equal(Errno.NoEntry, guest.Error(FuseOpcode.Lookup, Root, FuseGuest.Bytes("b")));
        _host.AssertOutsideUntouched();
    }

    [Fact]
    public void Attributes_are_read_and_set()
    {
        File.WriteAllText(_host["f"], "0123456789");
        using FuseGuest guest = Guest();
        ulong node = guest.Lookup(Root, "f").Node, handle = guest.Open(node, ReadWrite);
        guest.Call(FuseOpcode.SetAttributes, node, FuseGuest.SetBody(FuseSet.Size | FuseSet.Modified, size: 4, modified: 1_000_000_000), 104);
        Assert.Equal("0123", File.ReadAllText(_host["f"]));
        Assert.Equal(DateTime.UnixEpoch.AddSeconds(1_000_000_000).AddTicks(0), File.GetLastWriteTimeUtc(_host["f"]), TimeSpan.FromMicroseconds(1));
        FuseAttributes attributes = guest.Attributes(node);
        Assert.Equal((4ul, 1_000_000_000ul, 5u), (attributes.Size, attributes.Modified, attributes.ModifiedNs));
        guest.Call(FuseOpcode.SetAttributes, node, FuseGuest.SetBody(FuseSet.Size | FuseSet.Handle, size: 1 << 20, handle: handle), 104);
        Assert.Equal(1 << 20, new FileInfo(_host["f"]).Length);
        Assert.Equal(Errno.Invalid, guest.Error(FuseOpcode.SetAttributes, node, FuseGuest.SetBody(FuseSet.Size, size: 1ul << 63)));
        Assert.Equal(Errno.IsAFolder, guest.Error(FuseOpcode.SetAttributes, Root, FuseGuest.SetBody(FuseSet.Size)));
        Assert.Equal(Errno.Invalid, guest.Error(FuseOpcode.SetAttributes, node, FuseGuest.SetBody(FuseSet.User, user: uint.MaxValue)));
        guest.Write(node, handle, 512 << 10, [1, 2, 3]);
        ulong data = BinaryPrimitives.ReadUInt64LittleEndian(guest.Call(FuseOpcode.Seek, node, FuseGuest.Bytes(handle, 4096ul, 3u, 0u), 8));
        Assert.InRange(data, 4096ul, 512ul << 10);
        Assert.Equal(Errno.Invalid, guest.Error(FuseOpcode.Seek, node, FuseGuest.Bytes(handle, 0ul, 0u, 0u)));
        guest.Call(FuseOpcode.Allocate, node, FuseGuest.Bytes(handle, 512ul << 10, 4096ul, 3u, 0u), 0); // a hole
        Assert.Equal(new byte[3], guest.Read(node, handle, 512 << 10, 3));
        Assert.Equal(Errno.NotSupported, guest.Error(FuseOpcode.Allocate, node, FuseGuest.Bytes(handle, 0ul, 4096ul, 8u, 0u))); // FALLOC_FL_COLLAPSE_RANGE
        (ulong copy, ulong target) = guest.Create(Root, "copy");
        byte[] answer = guest.Call(FuseOpcode.CopyRange, node, FuseGuest.Bytes(handle, 1ul, copy, target, 2ul, 3ul, 0ul), 8);
        Assert.Equal(3u, BinaryPrimitives.ReadUInt32LittleEndian(answer));
        Assert.Equal("\0\0123", File.ReadAllText(_host["copy"]));
        byte[] space = guest.Call(FuseOpcode.FileSystem, Root, [], 80);
        Assert.True(BinaryPrimitives.ReadUInt64LittleEndian(space) > 0);
        guest.Call(FuseOpcode.SyncFileSystem, Root, new byte[8], 0);
    }

    /// <summary>Each entry once, whatever room there is for an answer, and the kinds and numbers that LOOKUP says.</summary>
    [Theory]
    [InlineData(400, true)]
    [InlineData(4096, true)]
    [InlineData(300, false)]
    [InlineData(65536, false)]
    public void A_folder_is_read_in_pieces(int room, bool plus)
    {
        string[] names = [.. Enumerable.Range(0, 700).Select(n => new string('n', n % 200) + n)];
        foreach (string name in names) File.WriteAllText(_host[name], name);
        Directory.CreateDirectory(_host["folder"]);
        using FuseGuest guest = Guest();
        List<(string Name, FuseEntryOut Entry, FuseFolderEntry Own)> all = guest.List(Root, room, plus);
        Assert.Equal([".", "..", "folder", .. names], all.Select(e => e.Name), new SameSet());
        ulong rootInode = guest.Attributes(Root).Inode;
        Assert.Equal(rootInode, all.First(e => e.Name == "..").Own.Inode); // nothing of what lies above
        foreach ((string name, FuseEntryOut entry, FuseFolderEntry own) in all.Where(e => !e.Name.StartsWith('.')).Take(50))
        {
            FuseEntryOut known = guest.Lookup(Root, name);
            Assert.Equal((known.Attributes.Inode, known.Attributes.Mode >> 12), (own.Inode, own.Type));
            if (plus) Assert.Equal((known.Node, known.Attributes.Size, known.Attributes.Mode), (entry.Node, entry.Attributes.Size, entry.Attributes.Mode));
        }
        ulong handle = BinaryPrimitives.ReadUInt64LittleEndian(guest.Call(FuseOpcode.OpenFolder, Root, new byte[8], 16));
        Assert.Equal(Errno.Invalid, guest.Error(FuseOpcode.ReadFolder, Root, FuseGuest.Bytes(handle, 0ul, 20u, 0u, 0ul, 0u, 0u), 20)); // room for none
        Assert.Equal(Errno.NotAFolder, guest.Error(FuseOpcode.OpenFolder, guest.Lookup(Root, names[0]).Node, new byte[8]));
    }

    private sealed class SameSet : IEqualityComparer<IEnumerable<string>>
    {
        public bool Equals(IEnumerable<string>? x, IEnumerable<string>? y) => x!.Order(StringComparer.Ordinal).SequenceEqual(y!.Order(StringComparer.Ordinal));
        public int GetHashCode(IEnumerable<string> all) => all.Count();
    }

    /// <summary>A name is one step: nothing with a '/', and neither "." nor "..".</summary>
    [Theory]
    [InlineData("..")]
    [InlineData(".")]
    [InlineData("")]
    [InlineData("../outside")]
    [InlineData("/etc")]
    [InlineData("folder/file")]
    public void A_name_that_is_a_path_is_refused(string name)
    {
        Directory.CreateDirectory(_host["folder"]);
        File.WriteAllText(_host["folder/file"], "F");
        using FuseGuest guest = Guest();
        ulong node = guest.Lookup(guest.Lookup(Root, "folder").Node, "file").Node;
        foreach ((FuseOpcode opcode, byte[] body) in ((FuseOpcode, byte[])[])
        [
            (FuseOpcode.Lookup, FuseGuest.Bytes(name)),
            (FuseOpcode.Create, FuseGuest.Bytes(0x42u, 0x81A4u, 0u, 0u, name)),
            (FuseOpcode.MakeFolder, FuseGuest.Bytes(0x1EDu, 0u, name)),
            (FuseOpcode.MakeNode, FuseGuest.Bytes(0x81A4u, 0u, 0u, 0u, name)),
            (FuseOpcode.SymbolicLink, FuseGuest.Bytes(name, "x")),
            (FuseOpcode.Link, FuseGuest.Bytes(node, name)),
            (FuseOpcode.Unlink, FuseGuest.Bytes(name)),
            (FuseOpcode.RemoveFolder, FuseGuest.Bytes(name)),
            (FuseOpcode.Rename, FuseGuest.Bytes(Root, name, "x")),
            (FuseOpcode.Rename, FuseGuest.Bytes(Root, "folder", name)),
            (FuseOpcode.Rename2, FuseGuest.Bytes(Root, 2u, 0u, "folder", name)),
        ])
            Assert.True(Errno.Invalid == guest.Error(opcode, Root, body), $"{opcode}");
        Assert.Equal(Errno.NameTooLong, guest.Error(FuseOpcode.Lookup, Root, FuseGuest.Bytes(new string('x', 256))));
        Assert.Equal(Errno.Invalid, guest.Error(FuseOpcode.Lookup, Root, Text("no end")));
        Assert.Equal(["folder"], Directory.GetFileSystemEntries(_host.Path).Select(Path.GetFileName));
        _host.AssertOutsideUntouched();
    }

    /// <summary>What a symbolic link leads to is the guest's affair: here nothing goes through one.</summary>
    [Fact]
    public void No_link_leads_anywhere()
    {
        File.CreateSymbolicLink(_host["out"], "../outside");
        File.CreateSymbolicLink(_host["secret"], "../outside/secret");
        File.CreateSymbolicLink(_host["new"], "../outside/new");
        File.CreateSymbolicLink(_host["root"], "/");
        File.CreateSymbolicLink(_host["proc"], "/proc/self/root");
        using FuseGuest guest = Guest();
        foreach (string name in (string[])["out", "secret", "new", "root", "proc"])
        {
            FuseEntryOut link = guest.Lookup(Root, name);
            Assert.Equal(0xA000u, link.Attributes.Mode & 0xF000);
            Assert.Equal(Errno.NotAFolder, guest.Error(FuseOpcode.Lookup, link.Node, FuseGuest.Bytes("secret")));
            Assert.Equal(Errno.NotAFolder, guest.Error(FuseOpcode.Create, link.Node, FuseGuest.Bytes(0x42u, 0x81A4u, 0u, 0u, "made")));
            Assert.Equal(Errno.NotAFolder, guest.Error(FuseOpcode.Unlink, link.Node, FuseGuest.Bytes("secret")));
            Assert.Equal(Errno.NotAFolder, guest.Error(FuseOpcode.OpenFolder, link.Node, new byte[8]));
            Assert.Equal(Errno.AccessDenied, guest.Error(FuseOpcode.Open, link.Node, FuseGuest.Bytes(ReadWrite, 0u)));
            Assert.Equal(Errno.Invalid, guest.Error(FuseOpcode.SetAttributes, link.Node, FuseGuest.SetBody(FuseSet.Size)));
            Assert.Equal(Errno.Loop, guest.Error(FuseOpcode.Create, Root, FuseGuest.Bytes(0x242u, 0x81A4u, 0u, 0u, name)));
            // Its times are its own.
            guest.Call(FuseOpcode.SetAttributes, link.Node, FuseGuest.SetBody(FuseSet.Modified, modified: 77), 104);
            Assert.NotEqual(77, new DateTimeOffset(File.GetLastWriteTimeUtc(Path.Combine(_host.Outside, "secret"))).ToUnixTimeSeconds());
        }
        _host.AssertOutsideUntouched();
    }

    /// <summary>While somebody of the host puts links in the place of folders, nothing is made, read or removed outside.</summary>
    [Theory]
    [InlineData(2)]
    [InlineData(64)]
    public void Links_that_come_in_between_lead_nowhere(int descriptors)
    {
        Directory.CreateDirectory(_host["a"]);
        File.WriteAllText(_host["a/secret"], "inside");
        // With few descriptors folders are found again by their names, over and over.
        using var guest = new FuseGuest(new SharedFolder(_host.Path) { MostDescriptors = descriptors });
        bool over = false;
        var racer = new Thread(() =>
        {
            while (!Volatile.Read(ref over))
            {
                Directory.Move(_host["a"], _host["b"]);
                File.CreateSymbolicLink(_host["a"], "../outside");
                File.Delete(_host["a"]);
                Directory.Move(_host["b"], _host["a"]);
            }
        });
        racer.Start();
        try
        {
            int reached = 0;
            for (int n = 0; n < 3000; n++)
            {
                byte[] found = guest.Try(FuseOpcode.Lookup, Root, FuseGuest.Bytes("a"), 128, out int error);
                if (error != 0) continue;
                ulong folder = FuseGuest.Entry(found).Node;
                guest.Try(FuseOpcode.Create, folder, FuseGuest.Bytes(0x42u, 0x81A4u, 0u, 0u, "made"), 144, out _);
                byte[] secret = guest.Try(FuseOpcode.Lookup, folder, FuseGuest.Bytes("secret"), 128, out error);
                if (error == 0 && guest.Try(FuseOpcode.Open, FuseGuest.Entry(secret).Node, new byte[8], 16, out error) is var opened && error == 0)
                {
                    ulong handle = BinaryPrimitives.ReadUInt64LittleEndian(opened);
                    Assert.Equal("inside", Encoding.UTF8.GetString(guest.Read(FuseGuest.Entry(secret).Node, handle, 0, 100)));
                    reached++;
                }
                guest.Try(FuseOpcode.Unlink, folder, FuseGuest.Bytes("made"), 0, out _);
                guest.Call(FuseOpcode.Destroy, 0, [], 0);
                guest.Mount();
            }
            if (descriptors > 2) Assert.True(reached > 0);
        }
        finally
        {
            Volatile.Write(ref over, true);
            racer.Join();
        }
        _host.AssertOutsideUntouched();
    }

    /// <summary>Opening a FIFO would wait, and a device could do anything.</summary>
    [Fact]
    public void What_is_no_file_is_never_opened()
    {
        using (Process make = Process.Start("mkfifo", _host["fifo"])) make.WaitForExit();
        using var socket = new Socket(AddressFamily.Unix, SocketType.Stream, ProtocolType.Unspecified);
        socket.Bind(new UnixDomainSocketEndPoint(_host["socket"]));
        using FuseGuest guest = Guest();
        foreach ((string name, uint kind) in ((string, uint)[])[("fifo", 0x1000), ("socket", 0xC000)])
        {
            FuseEntryOut entry = guest.Lookup(Root, name);
            Assert.Equal(kind, entry.Attributes.Mode & 0xF000);
            Assert.Equal(Errno.AccessDenied, guest.Error(FuseOpcode.Open, entry.Node, FuseGuest.Bytes(ReadOnlyFlag, 0u)));
            Assert.Equal(Errno.AccessDenied, guest.Error(FuseOpcode.Open, entry.Node, FuseGuest.Bytes(ReadWrite | Truncate, 0u)));
            Assert.Equal(Errno.AccessDenied, guest.Error(FuseOpcode.Create, Root, FuseGuest.Bytes(0x242u, 0x81A4u, 0u, 0u, name)));
            Assert.Equal(Errno.Invalid, guest.Error(FuseOpcode.SetAttributes, entry.Node, FuseGuest.SetBody(FuseSet.Size)));
            Assert.Equal(Errno.NotAFolder, guest.Error(FuseOpcode.OpenFolder, entry.Node, new byte[8]));
            // Nor may the guest say who of the host may use it.
            Assert.Equal(Errno.NotPermitted, guest.Error(FuseOpcode.SetAttributes, entry.Node, FuseGuest.SetBody(FuseSet.Mode, mode: 0x1B6)));
        }
    }

    /// <summary>There a regular file may be the memory of a process.</summary>
    [Fact]
    public void The_kernels_own_file_systems_belong_to_no_folder()
    {
        Assert.Throws<IOException>(() => new SharedFolder("/proc"));
        using var guest = new FuseGuest(new SharedFolder("/"));
        // It is there, for what the guest mounts over it.
        FuseEntryOut proc = guest.Lookup(Root, "proc");
        Assert.Equal(0x4000u, proc.Attributes.Mode & 0xF000);
        Assert.Equal(0x4000u, guest.Attributes(proc.Node).Mode & 0xF000);
        foreach ((FuseOpcode opcode, byte[] body) in ((FuseOpcode, byte[])[])
        [
            (FuseOpcode.Lookup, FuseGuest.Bytes("self")), (FuseOpcode.OpenFolder, new byte[8]), (FuseOpcode.Unlink, FuseGuest.Bytes("version")),
            (FuseOpcode.SetAttributes, FuseGuest.SetBody(FuseSet.Mode, mode: 0x1ED)), (FuseOpcode.MakeFolder, FuseGuest.Bytes(0x1EDu, 0u, "x")),
            (FuseOpcode.GetXattr, FuseGuest.Bytes(0u, 0u, "user.x")),
        ])
            Assert.Equal(Errno.AccessDenied, guest.Error(opcode, proc.Node, body));
        Assert.NotEqual(0ul, guest.Lookup(Root, "usr").Node);
    }

    /// <summary>For root of the host as well, whose writes would leave them.</summary>
    [Fact]
    public void Privileges_of_a_program_of_the_host_go_when_the_guest_writes_to_it()
    {
        const UnixFileMode all = UnixFileMode.UserRead | UnixFileMode.UserWrite | UnixFileMode.UserExecute;
        string program = _host["program"];
        File.WriteAllText(program, "old");
        File.SetUnixFileMode(program, all | UnixFileMode.SetUser);
        using FuseGuest guest = Guest();
        ulong node = guest.Lookup(Root, "program").Node;
        Assert.Equal(3u, guest.Write(node, guest.Open(node, ReadWrite), 0, Text("new")));
        Assert.Equal((all, "new"), (File.GetUnixFileMode(program), File.ReadAllText(program)));
    }

    [Fact]
    public void A_read_only_folder_stays_as_it_is()
    {
        Directory.CreateDirectory(_host["d"]);
        File.WriteAllText(_host["f"], "F");
        string before = Listing();
        using var guest = new FuseGuest(new SharedFolder(_host.Path) { IsReadOnly = true });
        ulong node = guest.Lookup(Root, "f").Node, handle = guest.Open(node);
        Assert.Equal(Text("F"), guest.Read(node, handle, 0, 10));
        foreach ((FuseOpcode opcode, byte[] body) in ((FuseOpcode, byte[])[])
        [
            (FuseOpcode.Create, FuseGuest.Bytes(0x42u, 0x81A4u, 0u, 0u, "x")), (FuseOpcode.MakeFolder, FuseGuest.Bytes(0x1EDu, 0u, "x")),
            (FuseOpcode.MakeNode, FuseGuest.Bytes(0x81A4u, 0u, 0u, 0u, "x")), (FuseOpcode.SymbolicLink, FuseGuest.Bytes("x", "x")),
            (FuseOpcode.Link, FuseGuest.Bytes(node, "x")), (FuseOpcode.Unlink, FuseGuest.Bytes("f")), (FuseOpcode.RemoveFolder, FuseGuest.Bytes("d")),
            (FuseOpcode.Rename, FuseGuest.Bytes(Root, "f", "x")), (FuseOpcode.Rename2, FuseGuest.Bytes(Root, 0u, 0u, "f", "x")),
            (FuseOpcode.SetAttributes, FuseGuest.SetBody(FuseSet.Mode, mode: 0x1FF)), (FuseOpcode.Write, FuseGuest.WriteBody(handle, 0, [1])),
            (FuseOpcode.Allocate, FuseGuest.Bytes(handle, 0ul, 4096ul, 0u, 0u)), (FuseOpcode.SetXattr, FuseGuest.Bytes(1u, 0u, "user.x", new byte[1])),
            (FuseOpcode.RemoveXattr, FuseGuest.Bytes("user.x")), (FuseOpcode.CopyRange, FuseGuest.Bytes(handle, 0ul, node, handle, 0ul, 1ul, 0ul)),
        ])
            Assert.True(Errno.ReadOnly == guest.Error(opcode, opcode is FuseOpcode.SetAttributes ? node : Root, body), $"{opcode}");
        foreach (uint flags in (uint[])[WriteOnly, ReadWrite, ReadOnlyFlag | Truncate])
            Assert.Equal(Errno.ReadOnly, guest.Error(FuseOpcode.Open, node, FuseGuest.Bytes(flags, 0u)));
        Assert.Equal(before, Listing());

        string Listing() => string.Join('\n', Directory.GetFileSystemEntries(_host.Path, "*", SearchOption.AllDirectories).Order()
            .Select(p => $"{p} {File.GetUnixFileMode(p)} {File.GetLastWriteTimeUtc(p).Ticks} {(File.Exists(p) ? File.ReadAllText(p) : "")}"));
    }

    /// <summary>What the host's file cannot be stands in an attribute, which the guest neither sees nor writes.</summary>
    [Fact]
    public void Owners_and_permissions_of_the_guest_are_kept_beside_the_file()
    {
        using FuseGuest guest = Guest();
        uint own = HostProcess.UserId;
        (ulong plain, _) = guest.Create(Root, "plain", 0x1ED);
        Assert.Null(Kept("plain")); // nothing that would need it
        Assert.Equal((0u, 0u, 0x81EDu), Seen(plain));
        Assert.Equal((UnixFileMode)0x1ED, File.GetUnixFileMode(_host["plain"]));

        (ulong others, _) = guest.Create(Root, "others", 0x100, user: 1000, group: 100); // 0400
        Assert.Equal((1000u, 100u, 0x8100u), Seen(others));
        Assert.Equal("100400 1000 100 0 0", Kept("others"));
        Assert.Equal((UnixFileMode)0x180, File.GetUnixFileMode(_host["others"])); // its user can still read and write it
        guest.Call(FuseOpcode.SetAttributes, others, FuseGuest.SetBody(FuseSet.Mode, mode: 0x9ED), 104); // 04755
        Assert.Equal((1000u, 100u, 0x89EDu), Seen(others));
        Assert.Equal((UnixFileMode)0x1ED, File.GetUnixFileMode(_host["others"])); // no privileges on the host
        guest.Call(FuseOpcode.SetAttributes, others, FuseGuest.SetBody(FuseSet.User | FuseSet.Group), 104);
        Assert.Equal((0u, 0u, 0x81EDu), Seen(others)); // another owner: the bit is gone, chown(2)
        Assert.Null(Kept("others"));

        // A write of somebody without privileges takes set-user-ID away.
        guest.Call(FuseOpcode.SetAttributes, plain, FuseGuest.SetBody(FuseSet.Mode, mode: 0xDED), 104); // 06755
        Assert.Equal((0u, 0u, 0x8DEDu), Seen(plain));
        guest.Write(plain, guest.Open(plain, WriteOnly), 0, [1], FuseTransferIn.KillPrivileges);
        Assert.Equal((0u, 0u, 0x81EDu), Seen(plain));

        // The group of a folder that hands it on.
        ulong folder = FuseGuest.Entry(guest.Call(FuseOpcode.MakeFolder, Root, FuseGuest.Bytes(0x5EDu, 0u, "folder"), 128, 0, 50)).Node;
        Assert.Equal((0u, 50u, 0x45EDu), Seen(folder));
        Assert.Equal((7u, 50u, 0x81A4u), Seen(guest.Create(folder, "file", user: 7, group: 8).Node));
        Assert.Equal((7u, 50u, 0x45EDu), Seen(FuseGuest.Entry(guest.Call(FuseOpcode.MakeFolder, folder, FuseGuest.Bytes(0x1EDu, 0u, "sub"), 128, 7, 8)).Node));

        // Device nodes, FIFOs and sockets are files of the host, and devices of the guest.
        foreach ((string name, uint mode, uint device) in ((string, uint, uint)[])
            [("c", 0x21A4, 0x0501), ("b", 0x6180, 0x10_0834), ("p", 0x11A4, 0), ("s", 0xC1FF, 0)])
        {
            FuseEntryOut node = FuseGuest.Entry(guest.Call(FuseOpcode.MakeNode, Root, FuseGuest.Bytes(mode, device, 0u, 0u, name), 128));
            Assert.Equal((mode, device), (node.Attributes.Mode, node.Attributes.Device));
            Assert.Equal(mode, guest.Attributes(node.Node).Mode);
            Assert.False(HostFile.IsSpecial(_host[name]));
            Assert.Equal(Errno.AccessDenied, guest.Error(FuseOpcode.Open, node.Node, FuseGuest.Bytes(ReadWrite, 0u)));
        }
        Assert.Equal("60600 0 0 8 308", Kept("b"));

        const string name2 = "user.bunraku.status";
        Assert.Equal(Errno.NoData, guest.Error(FuseOpcode.GetXattr, folder, FuseGuest.Bytes(100u, 0u, name2)));
        Assert.Equal(Errno.NotPermitted, guest.Error(FuseOpcode.SetXattr, plain, FuseGuest.Bytes(11u, 0u, name2, Text("104777 0 0 0 0"))));
        Assert.Equal(Errno.NoData, guest.Error(FuseOpcode.RemoveXattr, folder, FuseGuest.Bytes(name2)));
        Assert.Empty(guest.Call(FuseOpcode.ListXattr, folder, FuseGuest.Bytes(1000u, 0u), 1000));
        // What is no such text says nothing.
        using (FileStream file = File.Open(_host["plain"], FileMode.Open))
        {
            foreach (string text in (string[])["", "100644", "100644 1 1 0", "100644 1 1 0 0 0", "40755 1 1 0 0", "120777 1 1 0 0", "9 1 1 0 0",
                "100644 -1 1 0 0", "777777777 1 1 1 1"])
            {
                Assert.True(HostFile.TrySetAttribute(file.SafeFileHandle, name2, text));
                Assert.Equal((0u, 0u, 0x81EDu), Seen(plain));
            }
        }
        Assert.All(Directory.GetFileSystemEntries(_host.Path, "*", SearchOption.AllDirectories), p =>
        {
            Assert.Equal(0, (int)File.GetUnixFileMode(p) & 0xE00);
            Assert.Equal(own, Owner(p));
        });

        (uint, uint, uint) Seen(ulong node)
        {
            FuseAttributes a = guest.Attributes(node);
            return (a.User, a.Group, a.Mode);
        }
        string? Kept(string name)
        {
            using FileStream file = File.OpenRead(_host[name]);
            return HostFile.GetAttribute(file.SafeFileHandle, name2);
        }
    }

    /// <summary>With the host's own owners files become whose the guest says, where this process may do that: else nothing is made.</summary>
    [Fact]
    public void The_hosts_own_owners_are_roots_to_give()
    {
        using var guest = new FuseGuest(new SharedFolder(_host.Path) { Owners = FileOwners.Host });
        bool mayGive = HostProcess.UserId == 0;
        byte[] create = FuseGuest.Bytes(0x42u, 0x8DA4u, 0u, 0u, "file");
        Assert.Equal(mayGive ? 0 : Errno.NotPermitted, guest.Error(FuseOpcode.Create, Root, create, user: 1234, group: 56));
        Assert.Equal(mayGive, File.Exists(_host["file"]));
        Assert.Equal(Errno.NotPermitted, guest.Error(FuseOpcode.MakeNode, Root, FuseGuest.Bytes(0x21A4u, 0x0103u, 0u, 0u, "null"))); // the host's own device
        guest.Call(FuseOpcode.MakeNode, Root, FuseGuest.Bytes(0x11A4u, 0u, 0u, 0u, "fifo"), 128, HostProcess.UserId, FolderCalls.GroupId);
        Assert.True(HostFile.IsSpecial(_host["fifo"]));
        if (!mayGive) return;
        Assert.Equal(1234u, Owner(_host["file"]));
        Assert.Equal((UnixFileMode)0xDA4, File.GetUnixFileMode(_host["file"]));
        ulong node = guest.Lookup(Root, "file").Node;
        guest.Call(FuseOpcode.SetAttributes, node, FuseGuest.SetBody(FuseSet.User, user: 77), 104);
        Assert.Equal((77u, 56u, 0x85A4u), (guest.Attributes(node).User, guest.Attributes(node).Group, guest.Attributes(node).Mode));
        Assert.Equal(77u, Owner(_host["file"]));
    }

    private static uint Owner(string path)
    {
        Assert.Equal(0, FolderCalls.OpenFolder(Path.GetDirectoryName(path)!, out int folder));
        Assert.Equal(0, FolderCalls.OpenChild(folder, Text(Path.GetFileName(path)), out int file));
        Assert.Equal(0, FolderCalls.Status(file, out HostFileStatus status));
        FolderCalls.Close(file);
        FolderCalls.Close(folder);
        return status.Owner;
    }

    [Fact]
    public void Attributes_of_users_are_the_hosts()
    {
        using FuseGuest guest = Guest();
        (ulong node, _) = guest.Create(Root, "f");
        byte[] value = new byte[1000];
        new Random(2).NextBytes(value);
        guest.Call(FuseOpcode.SetXattr, node, FuseGuest.Bytes(1000u, 0u, "user.one", value), 0);
        guest.Call(FuseOpcode.SetXattr, node, FuseGuest.Bytes(0u, 0u, "user.two"), 0);
        Assert.Equal(value, guest.Call(FuseOpcode.GetXattr, node, FuseGuest.Bytes(2000u, 0u, "user.one"), 2000));
        Assert.Equal(FuseGuest.Bytes(1000u, 0u), guest.Call(FuseOpcode.GetXattr, node, FuseGuest.Bytes(0u, 0u, "user.one"), 8));
        Assert.Equal(Errno.OutOfRange, guest.Error(FuseOpcode.GetXattr, node, FuseGuest.Bytes(999u, 0u, "user.one"), 2000));
        Assert.Equal(Errno.OutOfRange, guest.Error(FuseOpcode.GetXattr, node, FuseGuest.Bytes(2000u, 0u, "user.one"), 100)); // the driver's room counts as well
        Assert.Equal(Errno.OutOfRange, guest.Error(FuseOpcode.GetXattr, node, FuseGuest.Bytes(2000u, 0u, "user.one"), 0));
        string[] names = Encoding.UTF8.GetString(guest.Call(FuseOpcode.ListXattr, node, FuseGuest.Bytes(100u, 0u), 100)).TrimEnd('\0').Split('\0');
        Assert.Equal(["user.one", "user.two"], names.Order());
        Assert.Equal(Errno.OutOfRange, guest.Error(FuseOpcode.ListXattr, node, FuseGuest.Bytes(10u, 0u), 100));
        Assert.Equal(FuseGuest.Bytes(18u, 0u), guest.Call(FuseOpcode.ListXattr, node, FuseGuest.Bytes(0u, 0u), 8));
        Assert.Equal(Errno.Exists, guest.Error(FuseOpcode.SetXattr, node, FuseGuest.Bytes(1u, 1u, "user.one", new byte[1]))); // XATTR_CREATE
        Assert.Equal(Errno.Invalid, guest.Error(FuseOpcode.SetXattr, node, FuseGuest.Bytes(500u, 0u, "user.x", new byte[1])));
        guest.Call(FuseOpcode.RemoveXattr, node, FuseGuest.Bytes("user.two"), 0);
        Assert.Equal(Errno.NoData, guest.Error(FuseOpcode.GetXattr, node, FuseGuest.Bytes(0u, 0u, "user.two")));
        foreach (string name in (string[])["security.capability", "trusted.x", "system.posix_acl_access", "os2.x"])
        {
            Assert.Equal(Errno.NotSupported, guest.Error(FuseOpcode.SetXattr, node, FuseGuest.Bytes(1u, 0u, name, new byte[1])));
            Assert.Equal(Errno.NotSupported, guest.Error(FuseOpcode.GetXattr, node, FuseGuest.Bytes(10u, 0u, name)));
        }
    }

    /// <summary>With few descriptors all files stay known: they are found again by their names, and only if they are the same.</summary>
    [Fact]
    public void Descriptors_have_a_bound_and_files_have_none()
    {
        const int most = 16;
        string deep = "";
        for (int n = 0; n < 20; n++) Directory.CreateDirectory(_host[deep = Path.Combine(deep, $"d{n}")]);
        for (int n = 0; n < 300; n++) File.WriteAllText(_host[$"f{n}"], $"{n}");
        using var guest = new FuseGuest(new SharedFolder(_host.Path) { MostDescriptors = 2 * most });
        NodeTable nodes = guest.Device.Server.Connection!.Nodes;
        var folders = new List<ulong> { Root };
        for (int n = 0; n < 20; n++) folders.Add(guest.Lookup(folders[^1], $"d{n}").Node);
        (ulong kept, _) = guest.Create(folders[20], "kept");
        ulong[] files = [.. Enumerable.Range(0, 300).Select(n => guest.Lookup(Root, $"f{n}").Node)];
        Assert.InRange(nodes.Descriptors, 1, most);
        Assert.Equal(files[5], guest.Lookup(Root, "f5").Node);
        for (int n = 0; n < 300; n++) Assert.Equal((ulong)$"{n}".Length, guest.Attributes(files[n]).Size);
        // The guest moves folders and files: it knows them still.
        guest.Call(FuseOpcode.Rename, folders[9], FuseGuest.Bytes(Root, "d9", "moved"), 0);
        guest.Call(FuseOpcode.Rename, Root, FuseGuest.Bytes(folders[15], "f7", "f7 moved"), 0);
        for (int n = 0; n < 300; n++) guest.Attributes(files[n]);
        Assert.Equal(1ul, guest.Attributes(files[7]).Size);
        Assert.Equal(0ul, guest.Attributes(kept).Size);
        Assert.True(File.Exists(_host["moved/d10/d11/d12/d13/d14/f7 moved"]));
        // What it removes it knows as long as it likes.
        guest.Call(FuseOpcode.Unlink, Root, FuseGuest.Bytes("f3"), 0);
        for (int n = 100; n < 200; n++) guest.Attributes(files[n]);
        Assert.Equal(0u, guest.Attributes(files[3]).Links);
        // The host puts another file there: that is not the one that the guest knows.
        File.Delete(_host["f4"]);
        File.WriteAllText(_host["f4"], "another");
        Assert.Equal(Errno.Stale, guest.Error(FuseOpcode.GetAttributes, files[4], new byte[16]));
        Assert.NotEqual(files[4], guest.Lookup(Root, "f4").Node);
        Assert.Equal(7ul, guest.Attributes(guest.Lookup(Root, "f4").Node).Size);
        Assert.InRange(nodes.Descriptors, 1, most);
        // Open files have a bound.
        int opened = 0;
        while (guest.Error(FuseOpcode.Open, files[9], new byte[8]) == 0) opened++;
        Assert.InRange(opened, most - 2, most);
        Assert.Equal(Errno.TooManyFilesOfAll, guest.Error(FuseOpcode.Create, Root, FuseGuest.Bytes(0x42u, 0x81A4u, 0u, 0u, "more")));
        Assert.Equal(Errno.TooManyFilesOfAll, guest.Error(FuseOpcode.OpenFolder, Root, new byte[8]));
        Assert.False(File.Exists(_host["more"]));
    }

    /// <summary>FORGET and BATCH_FORGET: as often as it was told of.</summary>
    [Fact]
    public void What_is_forgotten_is_gone()
    {
        for (int n = 0; n < 10; n++) File.WriteAllText(_host[$"f{n}"], "");
        using FuseGuest guest = Guest();
        NodeTable nodes = guest.Device.Server.Connection!.Nodes;
        ulong[] files = [.. Enumerable.Range(0, 10).Select(n => guest.Lookup(Root, $"f{n}").Node)];
        guest.Lookup(Root, "f0");
        Assert.Equal(11, nodes.Count);
        guest.Tell(FuseOpcode.Forget, files[0], FuseGuest.Bytes(1ul));
        guest.Attributes(files[0]);
        guest.Tell(FuseOpcode.Forget, files[0], FuseGuest.Bytes(1ul));
        Assert.Equal(Errno.Stale, guest.Error(FuseOpcode.GetAttributes, files[0], new byte[16]));
        guest.Tell(FuseOpcode.BatchForget, 0, FuseGuest.Bytes(3u, 0u, files[1], 1ul, files[2], 99ul, Root, 1ul));
        guest.Tell(FuseOpcode.BatchForget, 0, FuseGuest.Bytes(uint.MaxValue, 0u, files[3], 1ul)); // more than there are
        guest.Tell(FuseOpcode.Interrupt, 0, FuseGuest.Bytes(5ul));
        Assert.Equal((7, 6), (nodes.Count, nodes.Descriptors));
        guest.Attributes(Root);
        Assert.NotEqual(files[1], guest.Lookup(Root, "f1").Node); // a number never comes back
    }

    /// <summary>Requests that were not begun when the device is reset are dropped, and nothing is written into guest memory for them.</summary>
    [Fact]
    public void A_reset_drops_what_was_not_begun()
    {
        using FuseGuest guest = Guest();
        guest.Rig.Machine.Pause(); // its threads stand still
        guest.Post(FuseGuest.Bytes(60u, (uint)FuseOpcode.MakeFolder, 9ul, Root, 0u, 0u, 1u, 0u, 0x1EDu, 0u, "dropped", new byte[4]), 144, 1);
        guest.SetUp();
        guest.Rig.Machine.Resume();
        guest.Mount();
        Assert.False(guest.TryTakeUsed(1));
        Assert.Empty(Directory.GetFileSystemEntries(_host.Path));
        Assert.Equal(0, guest.Device.Server.Connection!.Handles.Count);
    }

    /// <summary>Resets while requests are under way: none is answered after, nothing of before is known, and no descriptor stays.</summary>
    [Fact]
    public void A_reset_in_the_middle_of_work_is_clean()
    {
        using FuseGuest guest = Guest(queues: 2);
        var random = new Random(4);
        for (int round = 0; round < 150; round++)
        {
            ulong handle = guest.Create(Root, "file").Handle;
            byte[] body = FuseGuest.Bytes((uint)(40 + 40 + 100_000), (uint)FuseOpcode.Write, 1ul, 2ul, 0u, 0u, 1u, 0u,
                FuseGuest.WriteBody(handle, 0, new byte[100_000]));
            guest.Post(body, 24, 1);
            guest.Post(FuseGuest.Bytes(48u, (uint)FuseOpcode.OpenFolder, 9ul, Root, 0u, 0u, 1u, 0u, 0ul), 32, 2);
            if (random.Next(2) == 0) Thread.SpinWait(random.Next(20_000));
            FuseConnection before = guest.Device.Server.Connection!;
            guest.SetUp();
            Assert.False(guest.Device.Server.IsConnected);
            Assert.Equal(Errno.Io, guest.Error(FuseOpcode.GetAttributes, Root, new byte[16]));
            guest.Mount();
            Assert.False(guest.TryTakeUsed(1));
            Assert.False(guest.TryTakeUsed(2));
            Assert.Equal((1, 0), (guest.Device.Server.Connection!.Nodes.Count, guest.Device.Server.Connection.Handles.Count));
            Assert.Equal(Errno.BadDescriptor, guest.Error(FuseOpcode.Read, Root, FuseGuest.Bytes(handle, 0ul, 5u, 0u, 0ul, 0u, 0u)));
            Assert.True(SpinWait.SpinUntil(() => before.Nodes.Count == 0 && before.Nodes.Descriptors == 0, TimeSpan.FromMinutes(1)));
        }
        string links = string.Join('\n', Directory.GetFiles("/proc/self/fd").Select(f => new FileInfo(f).LinkTarget));
        Assert.DoesNotContain(_host["file"], links, StringComparison.Ordinal);
        Assert.False(guest.Driver.Status.HasFlag(VirtioStatus.NeedsReset));
    }

    /// <summary>Without a mounted folder the device is saved like any other; with one it says why not.</summary>
    [Fact]
    public void A_device_is_saved_while_nothing_is_mounted()
    {
        using var guest = new FuseGuest(new SharedFolder(_host.Path), mounts: false);
        guest.Rig.Machine.Pause();
        MachineState state = guest.Rig.Machine.Save();
        using var other = new FuseGuest(new SharedFolder(_host.Path));
        other.Rig.Machine.Pause();
        CannotSaveException refused = Assert.Throws<CannotSaveException>(() => other.Rig.Machine.Save());
        Assert.Contains("mounted", refused.Message, StringComparison.Ordinal);
        other.Rig.Machine.Restore(state); // what was mounted there is not any more
        other.Rig.Machine.Resume();
        Assert.False(other.Device.Server.IsConnected);
        other.SetUp();
        other.Mount();
        other.Attributes(Root);
    }

    /// <summary>A request without a header or without room for an answer is none: section 2.1.2.</summary>
    [Theory]
    [InlineData(39, 100)]
    [InlineData(40, 15)]
    public void What_is_no_request_makes_the_device_ask_for_a_reset(int length, int room)
    {
        using FuseGuest guest = Guest();
        guest.Post([.. FuseGuest.Bytes(40u, 3u, 1ul, Root, 0u, 0u, 0u, 0u)[..length]], room, 1);
        Assert.True(SpinWait.SpinUntil(() => guest.Driver.Status.HasFlag(VirtioStatus.NeedsReset), TimeSpan.FromMinutes(1)));
        Assert.False(guest.TryTakeUsed(1));
        guest.SetUp();
        guest.Mount();
        guest.Attributes(Root);
    }

    /// <summary>Any operation, with any lengths, nodes, handles and names: the server answers, and touches nothing outside.</summary>
    [Theory]
    [InlineData(1)]
    [InlineData(2)]
    [InlineData(3)]
    [InlineData(4)]
    public void A_hostile_client_harms_the_folder_alone(int seed)
    {
        string[] names =
        [
            "a", "b", "c", "d", "out", "fifo", "user.x", "\u00e4", "..", ".", "", "a/b", "../outside", "/", "c\nd", new('x', 255), new('y', 300),
            "user.bunraku.status",
        ];
        File.CreateSymbolicLink(_host["out"], "../outside");
        Directory.CreateDirectory(_host["a"]);
        using (Process make = Process.Start("mkfifo", _host["fifo"])) make.WaitForExit();
        using var guest = new FuseGuest(new SharedFolder(_host.Path) { MostDescriptors = 40 }, queues: 2);
        var random = new Random(seed);
        FuseOpcode[] known = [.. Enum.GetValues<FuseOpcode>()];
        uint[] others = [7, 19, 31, 32, 33, 34, 37, 39, 40, 41, 48, 49, 51, 4096, uint.MaxValue];
        var answered = new Dictionary<FuseOpcode, int>();
        var nodes = new List<ulong> { Root };
        var handles = new List<ulong> { 1 };
        for (int n = 0; n < 25_000; n++)
        {
            FuseOpcode opcode = random.Next(20) == 0 ? (FuseOpcode)others[random.Next(others.Length)] : known[random.Next(known.Length)];
            if (opcode is FuseOpcode.Destroy or FuseOpcode.Init or FuseOpcode.SyncFileSystem or FuseOpcode.Sync or FuseOpcode.SyncFolder
                && random.Next(50) != 0)
                continue;
            byte[] body = random.Next(4) == 0 ? RandomBodies.Any(random) : RandomBodies.Spoilt(random, Body(opcode));
            byte[] message = FuseGuest.Bytes(random.Next(50) == 0 ? (uint)random.NextInt64(1L << 32) : (uint)(40 + body.Length), (uint)opcode, (ulong)n, Node(),
                (uint)random.Next(3), (uint)random.Next(3), 1u, 0u, body);
            int room = random.Next(6) switch { 0 => 16 + random.Next(300), 1 => 16, 2 => 16 + random.Next(70_000), _ => 16 + 144 };
            (byte[] answer, uint written) = guest.Send(message, room, 1 + random.Next(2));
            if (FuseServer.HasNoAnswer(opcode)) continue;
            Assert.InRange(written, 16u, (uint)room);
            if (BinaryPrimitives.ReadInt32LittleEndian(answer.AsSpan(4)) != 0) continue;
            answered[opcode] = answered.GetValueOrDefault(opcode) + 1;
            if (opcode is FuseOpcode.Lookup or FuseOpcode.Create or FuseOpcode.MakeFolder or FuseOpcode.MakeNode)
                nodes.Add(FuseGuest.Entry(answer[16..]).Node);
            if (opcode is FuseOpcode.Open or FuseOpcode.OpenFolder) handles.Add(BinaryPrimitives.ReadUInt64LittleEndian(answer.AsSpan(16)));
            if (opcode is FuseOpcode.Create) handles.Add(BinaryPrimitives.ReadUInt64LittleEndian(answer.AsSpan(16 + 128)));
            if (opcode != FuseOpcode.Destroy) continue;
            guest.Mount();
            (nodes, handles) = ([Root], [1]);
        }
        // Most of it is nonsense, but not all.
        int possible = known.Count(o => !FuseServer.HasNoAnswer(o));
        Assert.True(answered.Count > possible * 3 / 4, $"never done: {string.Join(", ", known.Except(answered.Keys))}");
        Assert.False(guest.Driver.Status.HasFlag(VirtioStatus.NeedsReset));
        guest.Mount();
        guest.Attributes(Root);
        _host.AssertOutsideUntouched();

        ulong Node() => random.Next(20) == 0 ? (ulong)random.NextInt64() : random.Next(3) == 0 ? Root : nodes[^(1 + random.Next(Math.Min(nodes.Count, 20)))];
        ulong Handle() => random.Next(20) == 0 ? (ulong)random.Next(100) : handles[^(1 + random.Next(Math.Min(handles.Count, 10)))];
        string Name() => names[random.Next(3) == 0 ? random.Next(names.Length) : random.Next(8)];
        ulong Offset() => random.Next(10) == 0 ? (ulong)random.NextInt64() * 2 : (ulong)random.Next(9000);
        uint Small() => (uint)random.Next(4);
        byte[] Body(FuseOpcode opcode) => opcode switch
        {
            FuseOpcode.Lookup or FuseOpcode.Unlink or FuseOpcode.RemoveFolder or FuseOpcode.RemoveXattr => FuseGuest.Bytes(Name()),
            FuseOpcode.Init => FuseGuest.Bytes(7u, 37u, 0u, (uint)random.Next(), new byte[48]),
            FuseOpcode.SetAttributes =>
                FuseGuest.SetBody((FuseSet)random.Next(1 << 12), (uint)random.Next(1 << 16), Small(), Small(), Offset(), Handle(), Offset()),
            FuseOpcode.SymbolicLink => FuseGuest.Bytes(Name(), Name()),
            FuseOpcode.MakeNode => FuseGuest.Bytes((uint)random.Next(16) << 12 | 0x1A4, (uint)random.Next(), 0u, 0u, Name()),
            FuseOpcode.MakeFolder => FuseGuest.Bytes((uint)random.Next(0x1000), 0u, Name()),
            FuseOpcode.Rename => FuseGuest.Bytes(Node(), Name(), Name()),
            FuseOpcode.Rename2 => FuseGuest.Bytes(Node(), Small(), 0u, Name(), Name()),
            FuseOpcode.Link => FuseGuest.Bytes(Node(), Name()),
            FuseOpcode.Create => FuseGuest.Bytes((uint)random.Next(0x1000), 0x8000 | (uint)random.Next(0x1000), 0u, 0u, Name()),
            FuseOpcode.Open or FuseOpcode.OpenFolder => FuseGuest.Bytes(Small() | (random.Next(4) == 0 ? Truncate : 0), 0u),
            FuseOpcode.Write => FuseGuest.WriteBody(Handle(), Offset(), new byte[random.Next(3000)], (uint)random.Next(8), (uint)random.Next(0x1000)),
            FuseOpcode.Read or FuseOpcode.ReadFolder or FuseOpcode.ReadFolderPlus =>
                FuseGuest.Bytes(Handle(), random.Next(2) == 0 ? 0 : Offset(), (uint)random.Next(9000), 0u, 0ul, 0u, 0u),
            FuseOpcode.SetXattr => FuseGuest.Bytes(3u, Small(), "user.x", new byte[3]),
            FuseOpcode.GetXattr => FuseGuest.Bytes((uint)random.Next(100), 0u, "user.x"),
            FuseOpcode.ListXattr => FuseGuest.Bytes((uint)random.Next(100), 0u),
            FuseOpcode.Forget => FuseGuest.Bytes(Offset()),
            FuseOpcode.BatchForget => FuseGuest.Bytes(2u, 0u, Node(), 1ul, Node(), Offset()),
            FuseOpcode.Allocate => FuseGuest.Bytes(Handle(), Offset(), Offset(), (uint)random.Next(32), 0u),
            FuseOpcode.Seek => FuseGuest.Bytes(Handle(), Offset(), (uint)random.Next(5), 0u),
            FuseOpcode.CopyRange => FuseGuest.Bytes(Handle(), Offset(), Node(), Handle(), Offset(), Offset(), 0ul),
            _ => FuseGuest.Bytes(Handle(), 0ul, 0ul),
        };
    }

    /// <summary>Queues work side by side.</summary>
    [Fact]
    public void Queues_do_not_wait_for_each_other()
    {
        using FuseGuest guest = Guest(queues: 2);
        (ulong node, ulong handle) = guest.Create(Root, "f");
        for (int n = 0; n < 200; n++)
        {
            byte[] bytes = BitConverter.GetBytes(n);
            guest.Call(FuseOpcode.Write, node, FuseGuest.WriteBody(handle, (ulong)n * 4, bytes), 8, queue: 1 + n % 2);
            Assert.Equal(bytes, guest.Call(FuseOpcode.Read, node, FuseGuest.Bytes(handle, (ulong)n * 4, 4u, 0u, 0ul, 0u, 0u), 4, queue: 2 - n % 2));
        }
        Assert.Equal(Enumerable.Range(0, 200), MemoryMarshal.Cast<byte, int>(File.ReadAllBytes(_host["f"])).ToArray());
    }

    /// <summary>With <see cref="FileCache.Always"/> writes wait in the guest, which reads by any handle, and what is not there stays so.</summary>
    [Fact]
    public void A_folder_of_its_own_is_cached_for_ever()
    {
        using var guest = new FuseGuest(new SharedFolder(_host.Path) { Cache = FileCache.Always });
        Assert.True(((FuseFeature)guest.Mount().Flags).HasFlag(FuseFeature.WritebackCache));
        FuseEntryOut nothing = guest.Lookup(Root, "nothing");
        Assert.Equal(0ul, nothing.Node);
        Assert.True(nothing.EntryValid > 1_000_000);
        (ulong node, ulong handle) = guest.Create(Root, "f", flags: WriteOnly);
        guest.Write(node, handle, 0, Text("text"));
        Assert.Equal(Text("text"), guest.Read(node, handle, 0, 4));
        using var plain = new FuseGuest(new SharedFolder(_host.Path) { Cache = FileCache.None });
        Assert.Equal((0ul, 0ul), (plain.Lookup(Root, "f").EntryValid, plain.Lookup(Root, "f").AttributesValid));
    }

    [Fact]
    public void What_is_no_folder_is_refused_in_one_line()
    {
        File.WriteAllText(_host["f"], "");
        Assert.Equal($"folder {_host["f"]}: Not a directory", Assert.Throws<IOException>(() => new SharedFolder(_host["f"])).Message);
        Assert.Equal($"folder {_host["x"]}: No such file or directory", Assert.Throws<IOException>(() => new SharedFolder(_host["x"])).Message);
    }
}
