using System.Buffers.Binary;
using System.Runtime.InteropServices;
using System.Text;
using Bunraku.Engines;
using Bunraku.Hypervisor;
using Bunraku.Machine.Virtio;
using Bunraku.Machine.Virtio.Files;
using Bunraku.Platform;

namespace Bunraku.Machine.Tests.Virtio;

/// <summary>
/// The file system device, Virtual I/O Device (VIRTIO) Version 1.3, section 5.11, and its FUSE server, after linux/fuse.h: what a driver asks for, seen from
/// the host.
/// </summary>
public sealed class FileSystemTests : SharedFolderTests
{
    public static TheoryData<VirtioFeatures> Layouts() =>
        [Plain, Plain | VirtioFeatures.EventIndex, Plain | VirtioFeatures.RingPacked, Plain | VirtioFeatures.RingPacked | VirtioFeatures.EventIndex];

    /// <summary>Sections 5.11.1, 5.11.2 and 5.11.4: device ID, queues, tag padded with NUL, number of request queues.</summary>
    [Fact]
    public void Section_5_11_4_the_configuration_has_tag_and_queues()
    {
        using var guest = new FuseGuest(new SharedFolder(Host.Path), queues: 3, mounts: false);
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
        using var guest = new FuseGuest(new SharedFolder(Host.Path), mounts: false);
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
        Assert.Equal([0, 0, 0, 0, 0, .. bytes], File.ReadAllBytes(Host["folder/file"]));
        Assert.Equal(bytes[100..1100], guest.Read(node, handle, 105, 1000));
        Assert.Equal(bytes[^10..], guest.Read(node, handle, (ulong)bytes.Length - 5, 1000)); // the end of the file
        Assert.Empty(guest.Read(node, handle, 1 << 30, 1000));
        File.AppendAllText(Host["folder/file"], "of the host");
        // O_APPEND goes to where the file ends now, whatever the guest knows; pages of its cache go where they belong.
        guest.Write(node, handle, 0, Text("+end"), flags: ReadWrite | Append);
        Assert.EndsWith("of the host+end", File.ReadAllText(Host["folder/file"]), StringComparison.Ordinal);
        guest.Write(node, handle, 0, Text("first"), FuseTransferIn.FromCache, ReadWrite | Append);
        Assert.Equal(Text("first"), File.ReadAllBytes(Host["folder/file"])[..5]);
        guest.Call(FuseOpcode.Flush, node, FuseGuest.Bytes(handle, 0ul, 0ul), 0);
        guest.Call(FuseOpcode.Sync, node, FuseGuest.Bytes(handle, 1u, 0u), 0);
        guest.Call(FuseOpcode.Release, node, FuseGuest.Bytes(handle, 0ul, 0ul), 0);
        Assert.Equal(Errno.BadDescriptor, guest.Error(FuseOpcode.Read, node, FuseGuest.Bytes(handle, 0ul, 5u, 0u, 0ul, 0u, 0u)));
        ulong again = guest.Open(node, WriteOnly | Truncate);
        Assert.Equal(0, new FileInfo(Host["folder/file"]).Length);
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
        File.WriteAllText(Host["a"], "A");
        FuseEntryOut linked = FuseGuest.Entry(guest.Call(FuseOpcode.Link, Root, FuseGuest.Bytes(node, "b"), 128));
        Assert.Equal((node, 2u), (linked.Node, linked.Attributes.Links));
        guest.Call(FuseOpcode.SymbolicLink, Root, FuseGuest.Bytes("link", "../outside/secret"), 128);
        ulong link = guest.Lookup(Root, "link").Node;
        Assert.Equal("../outside/secret", new FileInfo(Host["link"]).LinkTarget);
        Assert.Equal(Text("../outside/secret"), guest.Call(FuseOpcode.ReadLink, link, [], 4096));
        Assert.Equal(Errno.Invalid, guest.Error(FuseOpcode.ReadLink, node, []));
        guest.Call(FuseOpcode.Rename, Root, FuseGuest.Bytes(Root, "a", "c"), 0);
        Assert.Equal(Errno.Exists, guest.Error(FuseOpcode.Rename2, Root, FuseGuest.Bytes(Root, 1u, 0u, "c", "b"))); // RENAME_NOREPLACE
        File.WriteAllText(Host["d"], "D");
        guest.Call(FuseOpcode.Rename2, Root, FuseGuest.Bytes(Root, 2u, 0u, "c", "d"), 0); // RENAME_EXCHANGE
        Assert.Equal(("A", "D"), (File.ReadAllText(Host["d"]), File.ReadAllText(Host["c"])));
        Assert.Equal(Errno.Invalid, guest.Error(FuseOpcode.Rename2, Root, FuseGuest.Bytes(Root, 4u, 0u, "c", "d"))); // RENAME_WHITEOUT
        guest.Call(FuseOpcode.MakeFolder, Root, FuseGuest.Bytes(0x1EDu, 0u, "f"), 128);
        Assert.Equal(Errno.IsAFolder, guest.Error(FuseOpcode.Unlink, Root, FuseGuest.Bytes("f")));
        Assert.Equal(Errno.NotAFolder, guest.Error(FuseOpcode.RemoveFolder, Root, FuseGuest.Bytes("b")));
        guest.Call(FuseOpcode.RemoveFolder, Root, FuseGuest.Bytes("f"), 0);
        guest.Call(FuseOpcode.Unlink, Root, FuseGuest.Bytes("b"), 0);
        guest.Call(FuseOpcode.Unlink, Root, FuseGuest.Bytes("link"), 0);
        Assert.Equal(["c", "d"], Directory.GetFileSystemEntries(Host.Path).Select(Path.GetFileName).Order());
        Assert.Equal(Errno.NoEntry, guest.Error(FuseOpcode.Lookup, Root, FuseGuest.Bytes("b")));
        Host.AssertOutsideUntouched();
    }

    [Fact]
    public void Attributes_are_read_and_set()
    {
        File.WriteAllText(Host["f"], "0123456789");
        using FuseGuest guest = Guest();
        ulong node = guest.Lookup(Root, "f").Node, handle = guest.Open(node, ReadWrite);
        guest.Call(FuseOpcode.SetAttributes, node, FuseGuest.SetBody(FuseSet.Size | FuseSet.Modified, size: 4, modified: 1_000_000_000), 104);
        Assert.Equal("0123", File.ReadAllText(Host["f"]));
        Assert.Equal(DateTime.UnixEpoch.AddSeconds(1_000_000_000).AddTicks(0), File.GetLastWriteTimeUtc(Host["f"]), TimeSpan.FromMicroseconds(1));
        FuseAttributes attributes = guest.Attributes(node);
        Assert.Equal((4ul, 1_000_000_000ul, 5u), (attributes.Size, attributes.Modified, attributes.ModifiedNs));
        guest.Call(FuseOpcode.SetAttributes, node, FuseGuest.SetBody(FuseSet.Size | FuseSet.Handle, size: 1 << 20, handle: handle), 104);
        Assert.Equal(1 << 20, new FileInfo(Host["f"]).Length);
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
        Assert.Equal("\0\0123", File.ReadAllText(Host["copy"]));
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
        foreach (string name in names) File.WriteAllText(Host[name], name);
        Directory.CreateDirectory(Host["folder"]);
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
        for (int n = 0; n < 20; n++) Directory.CreateDirectory(Host[deep = Path.Combine(deep, $"d{n}")]);
        for (int n = 0; n < 300; n++) File.WriteAllText(Host[$"f{n}"], $"{n}");
        using var guest = new FuseGuest(new SharedFolder(Host.Path) { MostDescriptors = 2 * most });
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
        Assert.True(File.Exists(Host["moved/d10/d11/d12/d13/d14/f7 moved"]));
        // What it removes it knows as long as it likes.
        guest.Call(FuseOpcode.Unlink, Root, FuseGuest.Bytes("f3"), 0);
        for (int n = 100; n < 200; n++) guest.Attributes(files[n]);
        Assert.Equal(0u, guest.Attributes(files[3]).Links);
        // The host puts another file there: that is not the one that the guest knows.
        File.Delete(Host["f4"]);
        File.WriteAllText(Host["f4"], "another");
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
        Assert.False(File.Exists(Host["more"]));
    }

    /// <summary>FORGET and BATCH_FORGET: as often as it was told of.</summary>
    [Fact]
    public void What_is_forgotten_is_gone()
    {
        for (int n = 0; n < 10; n++) File.WriteAllText(Host[$"f{n}"], "");
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
        Assert.Empty(Directory.GetFileSystemEntries(Host.Path));
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
        Assert.DoesNotContain(Host["file"], links, StringComparison.Ordinal);
        Assert.False(guest.Driver.Status.HasFlag(VirtioStatus.NeedsReset));
    }

    /// <summary>Without a mounted folder the device is saved like any other; with one it says why not.</summary>
    [Fact]
    public void A_device_is_saved_while_nothing_is_mounted()
    {
        using var guest = new FuseGuest(new SharedFolder(Host.Path), mounts: false);
        guest.Rig.Machine.Pause();
        MachineState state = guest.Rig.Machine.Save();
        using var other = new FuseGuest(new SharedFolder(Host.Path));
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
        Assert.Equal(Enumerable.Range(0, 200), MemoryMarshal.Cast<byte, int>(File.ReadAllBytes(Host["f"])).ToArray());
    }

    /// <summary>With <see cref="FileCache.Always"/> writes wait in the guest, which reads by any handle, and what is not there stays so.</summary>
    [Fact]
    public void A_folder_of_its_own_is_cached_for_ever()
    {
        using var guest = new FuseGuest(new SharedFolder(Host.Path) { Cache = FileCache.Always });
        Assert.True(((FuseFeature)guest.Mount().Flags).HasFlag(FuseFeature.WritebackCache));
        FuseEntryOut nothing = guest.Lookup(Root, "nothing");
        Assert.Equal(0ul, nothing.Node);
        Assert.True(nothing.EntryValid > 1_000_000);
        (ulong node, ulong handle) = guest.Create(Root, "f", flags: WriteOnly);
        guest.Write(node, handle, 0, Text("text"));
        Assert.Equal(Text("text"), guest.Read(node, handle, 0, 4));
        using var plain = new FuseGuest(new SharedFolder(Host.Path) { Cache = FileCache.None });
        Assert.Equal((0ul, 0ul), (plain.Lookup(Root, "f").EntryValid, plain.Lookup(Root, "f").AttributesValid));
    }

    [Fact]
    public void What_is_no_folder_is_refused_in_one_line()
    {
        File.WriteAllText(Host["f"], "");
        Assert.Equal($"folder {Host["f"]}: Not a directory", Assert.Throws<IOException>(() => new SharedFolder(Host["f"])).Message);
        Assert.Equal($"folder {Host["x"]}: No such file or directory", Assert.Throws<IOException>(() => new SharedFolder(Host["x"])).Message);
    }
}
