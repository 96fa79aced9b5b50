using System.Buffers.Binary;
using System.Net.Sockets;
using System.Text;
using Bunraku.Hypervisor;
using Bunraku.Machine.Virtio;
using Bunraku.Machine.Virtio.Files;
using Bunraku.Platform;

namespace Bunraku.Machine.Tests.Virtio;

/// <summary>Whatever the guest asks for, by whatever names and links, the file system device touches nothing outside its folder.</summary>
public sealed class FileSystemConfinementTests : SharedFolderTests
{
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
        Directory.CreateDirectory(Host["folder"]);
        File.WriteAllText(Host["folder/file"], "F");
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
        Assert.Equal(["folder"], Directory.GetFileSystemEntries(Host.Path).Select(Path.GetFileName));
        Host.AssertOutsideUntouched();
    }

    /// <summary>What a symbolic link leads to is the guest's affair: here nothing goes through one.</summary>
    [Fact]
    public void No_link_leads_anywhere()
    {
        File.CreateSymbolicLink(Host["out"], "../outside");
        File.CreateSymbolicLink(Host["secret"], "../outside/secret");
        File.CreateSymbolicLink(Host["new"], "../outside/new");
        File.CreateSymbolicLink(Host["root"], "/");
        File.CreateSymbolicLink(Host["proc"], "/proc/self/root");
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
            Assert.NotEqual(77, new DateTimeOffset(File.GetLastWriteTimeUtc(Path.Combine(Host.Outside, "secret"))).ToUnixTimeSeconds());
        }
        Host.AssertOutsideUntouched();
    }

    /// <summary>While somebody of the host puts links in the place of folders, nothing is made, read or removed outside.</summary>
    [Theory]
    [InlineData(2)]
    [InlineData(64)]
    public void Links_that_come_in_between_lead_nowhere(int descriptors)
    {
        Directory.CreateDirectory(Host["a"]);
        File.WriteAllText(Host["a/secret"], "inside");
        // With few descriptors folders are found again by their names, over and over.
        using var guest = new FuseGuest(new SharedFolder(Host.Path) { MostDescriptors = descriptors });
        bool over = false;
        var racer = new Thread(() =>
        {
            while (!Volatile.Read(ref over))
            {
                Directory.Move(Host["a"], Host["b"]);
                File.CreateSymbolicLink(Host["a"], "../outside");
                File.Delete(Host["a"]);
                Directory.Move(Host["b"], Host["a"]);
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
        Host.AssertOutsideUntouched();
    }

    /// <summary>Opening a FIFO would wait, and a device could do anything.</summary>
    [Fact]
    public void What_is_no_file_is_never_opened()
    {
        Host.MakeFifo("fifo");
        using var socket = new Socket(AddressFamily.Unix, SocketType.Stream, ProtocolType.Unspecified);
        socket.Bind(new UnixDomainSocketEndPoint(Host["socket"]));
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
        string program = Host["program"];
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
        Directory.CreateDirectory(Host["d"]);
        File.WriteAllText(Host["f"], "F");
        string before = Listing();
        using var guest = new FuseGuest(new SharedFolder(Host.Path) { IsReadOnly = true });
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

        string Listing() => string.Join('\n', Directory.GetFileSystemEntries(Host.Path, "*", SearchOption.AllDirectories).Order()
            .Select(p => $"{p} {File.GetUnixFileMode(p)} {File.GetLastWriteTimeUtc(p).Ticks} {(File.Exists(p) ? File.ReadAllText(p) : "")}"));
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
        Host.MakeTraps();
        using var guest = new FuseGuest(new SharedFolder(Host.Path) { MostDescriptors = 40 }, queues: 2);
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
        Host.AssertOutsideUntouched();

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
}
