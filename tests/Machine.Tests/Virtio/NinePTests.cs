using System.Buffers.Binary;
using System.Text;
using Bunraku.Engines;
using Bunraku.Hypervisor;
using Bunraku.Machine.Tests.State;
using Bunraku.Machine.Virtio;
using Bunraku.Machine.Virtio.Files;
using Bunraku.Platform;

namespace Bunraku.Machine.Tests.Virtio;

/// <summary>The 9P transport device against requests that are written byte by byte after Linux's include/net/9p/9p.h, in folders of the host.</summary>
public sealed class NinePTests : IDisposable
{
    private const uint Root = 1, ReadOnlyOpen = 0, ReadWrite = 2, Truncate = 0x200;
    private const byte ErrorAnswer = 7;
    private readonly HostFolder _host = new();

    public void Dispose() => _host.Dispose();

    private sealed class Guest : IDisposable
    {
        public const int Slot = 5;
        private const ulong Ring = 0x10_0000, Messages = 0x20_0000, Answers = 0x30_0000;
        private static readonly TimeSpan s_longest = TimeSpan.FromMinutes(2);

        private readonly SharedFolder _folder;
        private TestQueue? _queue;
        private ushort _tag;

        public Guest(SharedFolder folder, bool mounts = true)
        {
            _folder = folder;
            Device = new NinePDevice("fs0", folder, "the tag");
            Rig = new BoardRig(0, new VirtioPart(Device, Slot));
            Driver = new VirtioDriver(Rig, Slot);
            SetUp();
            Rig.Machine.Resume();
            if (mounts) Mount();
        }

        public NinePDevice Device { get; }
        public BoardRig Rig { get; }
        public VirtioDriver Driver { get; }

        public void SetUp()
        {
            Assert.True(Driver.Negotiate((ulong)VirtioFeatures.Version1 | 1));
            Rig.Machine.Memory.Write(Ring, new byte[0x4_0000]);
            _queue = Driver.SetUp(0, 64, Ring, VirtioFeatures.Version1);
            Driver.SetDriverOk();
        }

        public void Mount(uint user = 0)
        {
            Call(NinePType.Version, Bytes(65536u, "9P2000.L"));
            Call(NinePType.Attach, Bytes(Root, uint.MaxValue, "", "", user));
        }

        /// <summary>Little-endian fields, one behind the other: numbers of their width, texts with their length before them, bytes as they are.</summary>
        public static byte[] Bytes(params ReadOnlySpan<object> fields)
        {
            var all = new List<byte>();
            foreach (object field in fields)
            {
                all.AddRange(field switch
                {
                    byte n => [n],
                    ushort n => BitConverter.GetBytes(n),
                    uint n => BitConverter.GetBytes(n),
                    ulong n => BitConverter.GetBytes(n),
                    string text => [.. BitConverter.GetBytes((ushort)Encoding.UTF8.GetByteCount(text)), .. Encoding.UTF8.GetBytes(text)],
                    byte[] bytes => bytes,
                    _ => throw new ArgumentException($"{field.GetType()}"),
                });
            }
            return [.. all];
        }

        /// <summary>What the answer has behind its header; it must be no error.</summary>
        public byte[] Call(NinePType type, byte[] body)
        {
            (byte[] answer, int error) = Try(type, body);
            Assert.True(error == 0, $"{type}: error {error}");
            return answer;
        }

        public int Error(NinePType type, params ReadOnlySpan<object> fields) => Try(type, Bytes(fields)).Error;

        public (byte[] Answer, int Error) Try(NinePType type, byte[] body, int room = 40_000)
        {
            ushort tag = ++_tag;
            (byte[] answer, uint written) = Send(Bytes((uint)(7 + body.Length), (byte)type, tag, body), room);
            Assert.InRange(written, 7u, (uint)room);
            Assert.Equal(written, BinaryPrimitives.ReadUInt32LittleEndian(answer));
            Assert.Equal(tag, BinaryPrimitives.ReadUInt16LittleEndian(answer.AsSpan(5)));
            if (answer[4] != ErrorAnswer)
            {
                Assert.Equal((byte)type + 1, answer[4]);
                return (answer[7..(int)written], 0);
            }
            Assert.Equal(11u, written);
            return ([], BinaryPrimitives.ReadInt32LittleEndian(answer.AsSpan(7)));
        }

        public (byte[] Answer, uint Written) Send(byte[] message, int room)
        {
            Post(message, room);
            uint written = 0;
            Assert.True(SpinWait.SpinUntil(() => _queue!.TryTakeUsed(out _, out written), s_longest), "no answer");
            byte[] answer = new byte[room];
            Rig.Machine.Memory.Read(Answers, answer);
            return (answer, written);
        }

        public void Post(byte[] message, int room)
        {
            Rig.Machine.Memory.Write(Messages, message);
            _queue!.Add([(Messages, 5, false), (Messages + 5, (uint)message.Length - 5, false), (Answers, 3, true), (Answers + 3, (uint)room - 3, true)]);
            Driver.Notify(0);
        }

        /// <summary>A new number for what is so many names further.</summary>
        public int Walk(uint from, uint to, params string[] names) => Try(NinePType.Walk, WalkBody(from, to, names)).Error;

        public static byte[] WalkBody(uint from, uint to, params string[] names) => Bytes([from, to, (ushort)names.Length, .. names]);

        public byte[] Read(uint fid, ulong offset, uint count)
        {
            byte[] answer = Call(NinePType.Read, Bytes(fid, offset, count));
            Assert.Equal(answer.Length - 4, BinaryPrimitives.ReadInt32LittleEndian(answer));
            return answer[4..];
        }

        public void Write(uint fid, ulong offset, byte[] data) =>
            Assert.Equal(data.Length, BinaryPrimitives.ReadInt32LittleEndian(Call(NinePType.Write, Bytes(fid, offset, (uint)data.Length, data))));

        /// <summary>Mode, user, group, links and length.</summary>
        public (uint Mode, uint User, uint Group, ulong Links, ulong Size) See(uint fid)
        {
            byte[] a = Call(NinePType.GetAttributes, Bytes(fid, 0x7FFul));
            Assert.Equal(153, a.Length);
            uint At(int n) => BinaryPrimitives.ReadUInt32LittleEndian(a.AsSpan(n));
            return (At(21), At(25), At(29), At(33), At(49));
        }

        public void Dispose()
        {
            Rig.Dispose();
            Device.Dispose();
            _folder.Dispose();
        }
    }

    private Guest Mounted() => new(new SharedFolder(_host.Path));

    [Fact]
    public void The_configuration_has_the_tag()
    {
        using Guest guest = Mounted();
        Assert.Equal(7ul, guest.Driver.Device(0, 2));
        Assert.Equal("the tag"u8.ToArray(), Enumerable.Range(2, 7).Select(n => (byte)guest.Driver.Device((uint)n, 1)));
        Assert.Equal(1ul, guest.Driver.Offered & 0xFF);
    }

    [Fact]
    public void A_session_begins_with_the_version()
    {
        using var guest = new Guest(new SharedFolder(_host.Path), mounts: false);
        Assert.Equal(Errno.Io, guest.Error(NinePType.Attach, Root, uint.MaxValue, "", "", 0u));
        Assert.Equal(Guest.Bytes(8192u, "unknown"), guest.Call(NinePType.Version, Guest.Bytes(8192u, "9P2000.u")));
        Assert.Equal(Errno.Io, guest.Error(NinePType.Attach, Root, uint.MaxValue, "", "", 0u));
        Assert.Equal(Errno.Invalid, guest.Error(NinePType.Version, 100u, "9P2000.L"));
        byte[] most = guest.Call(NinePType.Version, Guest.Bytes(uint.MaxValue, "9P2000.L"));
        Assert.InRange(BinaryPrimitives.ReadUInt32LittleEndian(most), 1u << 20, 2u << 20);
        guest.Mount();
        Assert.Equal(Errno.Invalid, guest.Error(NinePType.Attach, Root, uint.MaxValue, "", "", 0u)); // has the number
        Assert.Equal(Errno.NotSupported, guest.Error((NinePType)99));
        Assert.Equal(Errno.NotSupported, guest.Error(NinePType.Auth, 5u, "", "", 0u));
        Assert.Equal(0, guest.Error(NinePType.Flush, (ushort)1));
        guest.Mount(); // begins anew
    }

    [Fact]
    public void Files_are_made_written_read_and_removed()
    {
        using Guest guest = Mounted();
        Assert.Equal(0, guest.Walk(Root, 2));
        guest.Call(NinePType.Create, Guest.Bytes(2u, "file", ReadWrite, 0x81A0u, 7u));
        guest.Write(2, 0, "hello"u8.ToArray());
        guest.Write(2, 10, "there"u8.ToArray());
        Assert.Equal("hello\0\0\0\0\0there"u8.ToArray(), guest.Read(2, 0, 100));
        Assert.Empty(guest.Read(2, 100, 100));
        Assert.Equal("the"u8.ToArray(), guest.Read(2, 10, 3));
        guest.Call(NinePType.Sync, Guest.Bytes(2u, 0u));
        Assert.Equal((0x81A0u, 0u, 7u, 1ul, 15ul), guest.See(2));
        Assert.Equal(15, new FileInfo(_host["file"]).Length);
        guest.Call(NinePType.MakeFolder, Guest.Bytes(Root, "folder", 0x1C0u, 0u));
        Assert.Equal(0, guest.Walk(Root, 3, "folder"));
        guest.Call(NinePType.RenameAt, Guest.Bytes(Root, "file", 3u, "moved"));
        guest.Call(NinePType.Link, Guest.Bytes(Root, 2u, "other"));
        Assert.Equal(2ul, guest.See(2).Links);
        guest.Call(NinePType.SymbolicLink, Guest.Bytes(Root, "link", "folder/moved", 0u));
        Assert.Equal(0, guest.Walk(Root, 4, "link"));
        Assert.Equal(Guest.Bytes("folder/moved"), guest.Call(NinePType.ReadLink, Guest.Bytes(4u)));
        guest.Call(NinePType.UnlinkAt, Guest.Bytes(3u, "moved", 0u));
        guest.Call(NinePType.UnlinkAt, Guest.Bytes(Root, "other", 0u));
        Assert.Equal(0ul, guest.See(2).Links);
        Assert.Equal("hello"u8.ToArray(), guest.Read(2, 0, 5)); // what is open stays
        Assert.Equal(Errno.IsAFolder, guest.Error(NinePType.UnlinkAt, Root, "folder", 0u));
        guest.Call(NinePType.UnlinkAt, Guest.Bytes(Root, "folder", 0x200u));
        Assert.Equal(["link"], Directory.GetFileSystemEntries(_host.Path).Select(Path.GetFileName));
    }

    [Fact]
    public void A_walk_says_how_far_it_came()
    {
        Directory.CreateDirectory(_host["a/b/c"]);
        using Guest guest = Mounted();
        byte[] answer = guest.Call(NinePType.Walk, Guest.WalkBody(Root, 2, "a", "b", "c"));
        Assert.Equal((3, 2 + 3 * 13), (BinaryPrimitives.ReadUInt16LittleEndian(answer), answer.Length));
        Assert.Equal([0x80, 0x80, 0x80], new[] { answer[2], answer[15], answer[28] }); // folders
        Assert.Equal(2, BinaryPrimitives.ReadUInt16LittleEndian(guest.Call(NinePType.Walk, Guest.WalkBody(Root, 3, "a", "b", "missing", "x"))));
        Assert.Equal(Errno.BadDescriptor, guest.Error(NinePType.GetAttributes, 3u, 0x7FFul)); // it came to nothing
        Assert.Equal(Errno.NoEntry, guest.Walk(Root, 3, "missing"));
        Assert.Equal(Errno.BadDescriptor, guest.Walk(9, 3));
        Assert.Equal(Errno.Invalid, guest.Walk(Root, 2)); // is taken
        Assert.Equal(Errno.Invalid, guest.Walk(Root, 3, [.. Enumerable.Repeat("a", 17)]));
        Assert.Equal(0, guest.Walk(2, 2)); // itself
        Assert.Equal(0x41C0u & 0xF000, guest.See(2).Mode & 0xF000);
        foreach (uint fid in (uint[])[2, Root]) guest.Call(NinePType.Clunk, Guest.Bytes(fid));
        Assert.Equal(Errno.BadDescriptor, guest.Error(NinePType.Clunk, 2u));
        Assert.Equal(1, guest.Device.Server.Session!.Files.Nodes.Count); // nothing is known any more but the folder itself
        Assert.Equal(0, guest.Device.Server.Session.Files.Handles.Count);
    }

    [Theory]
    [InlineData(100u)]
    [InlineData(500u)]
    [InlineData(30_000u)]
    public void A_folder_is_read_in_pieces(uint count)
    {
        for (int n = 0; n < 300; n++) File.WriteAllText(_host[$"file number {n}"], "");
        using Guest guest = Mounted();
        guest.Walk(Root, 2);
        guest.Call(NinePType.Open, Guest.Bytes(2u, ReadOnlyOpen));
        var names = new List<string>();
        ulong offset = 0;
        while (true)
        {
            byte[] answer = guest.Call(NinePType.ReadFolder, Guest.Bytes(2u, offset, count));
            ReadOnlySpan<byte> rest = answer.AsSpan(4);
            Assert.Equal(rest.Length, BinaryPrimitives.ReadInt32LittleEndian(answer));
            Assert.InRange(rest.Length, 0, (int)count);
            if (rest.IsEmpty) break;
            while (!rest.IsEmpty)
            {
                offset = BinaryPrimitives.ReadUInt64LittleEndian(rest[13..]);
                int length = BinaryPrimitives.ReadUInt16LittleEndian(rest[22..]);
                string name = Encoding.UTF8.GetString(rest.Slice(24, length));
                names.Add(name);
                bool isFolder = name is "." or "..";
                Assert.Equal((isFolder ? 0x80 : 0, isFolder ? 4 : 8), (rest[0], rest[21]));
                rest = rest[(24 + length)..];
            }
        }
        Assert.Equal([.. Enumerable.Range(0, 300).Select(n => $"file number {n}"), ".", ".."], names.ToHashSet());
        Assert.Equal(302, names.Count);
    }

    [Fact]
    public void Attributes_are_set_and_kept_beside_the_file()
    {
        File.WriteAllText(_host["file"], "0123456789");
        using Guest guest = Mounted();
        guest.Walk(Root, 2, "file");
        // mode, user, group, size; both times to values
        guest.Call(NinePType.SetAttributes, Guest.Bytes(2u, 0x1BFu, 0x9EDu, 12u, 34u, 4ul, 1000ul, 5ul, 2000ul, 6ul));
        Assert.Equal((0x89EDu, 12u, 34u, 1ul, 4ul), guest.See(2));
        Assert.Equal("0123", File.ReadAllText(_host["file"]));
        Assert.Equal(2000, new DateTimeOffset(File.GetLastWriteTimeUtc(_host["file"])).ToUnixTimeSeconds());
        Assert.Equal(0, (int)File.GetUnixFileMode(_host["file"]) & 0xE00); // no set-user-ID file of the host
        guest.Call(NinePType.MakeNode, Guest.Bytes(Root, "null", 0x21B6u, 1u, 3u, 0u));
        Assert.False(HostFile.IsSpecial(_host["null"]));
        guest.Walk(Root, 3, "null");
        Assert.Equal(0x21B6u, guest.See(3).Mode);
        byte[] statistics = guest.Call(NinePType.FileSystem, Guest.Bytes(Root));
        Assert.Equal((60, 0x0102_1997u), (statistics.Length, BinaryPrimitives.ReadUInt32LittleEndian(statistics)));
        Assert.Equal([0], guest.Call(NinePType.Lock, Guest.Bytes(2u, (byte)1, 0u, 0ul, 0ul, 1u, "me")));
        Assert.Equal(Guest.Bytes((byte)2, 5ul, 6ul, 7u, "me"), guest.Call(NinePType.GetLock, Guest.Bytes(2u, (byte)1, 5ul, 6ul, 7u, "me")));
    }

    [Fact]
    public void Extended_attributes_are_read_and_written_as_files_are()
    {
        File.WriteAllText(_host["file"], "");
        using Guest guest = Mounted();
        guest.Walk(Root, 2, "file");
        Put("user.color", "blue");
        Assert.Equal("blue", Get("user.color"));
        Assert.Equal("user.color\0", Get(""));
        guest.Walk(2, 3);
        guest.Call(NinePType.XattrCreate, Guest.Bytes(3u, "user.other", 4ul, 0u));
        guest.Write(3, 0, "ab"u8.ToArray());
        Assert.Equal(Errno.Invalid, guest.Error(NinePType.Write, 3u, 0ul, 1u, (byte)1)); // not where the last one ended
        Assert.Equal(Errno.Invalid, guest.Error(NinePType.Clunk, 3u)); // a part of it is none
        Assert.Equal(Errno.NoData, guest.Error(NinePType.XattrWalk, 2u, 3u, "user.other"));
        Put("user.color", ""); // is removed
        Assert.Equal("", Get(""));
        foreach (string name in (string[])["user.bunraku.status", "security.capability", "trusted.x", "system.posix_acl_access"])
        {
            guest.Walk(2, 3);
            guest.Call(NinePType.XattrCreate, Guest.Bytes(3u, name, 1ul, 0u));
            guest.Write(3, 0, [1]);
            Assert.NotEqual(0, guest.Error(NinePType.Clunk, 3u));
        }
        Assert.Equal("", Get(""));
        for (uint n = 100; n < 164; n++)
        {
            guest.Walk(2, n);
            guest.Call(NinePType.XattrCreate, Guest.Bytes(n, "user.many", 65536ul, 0u));
        }
        guest.Walk(2, 3);
        Assert.Equal(Errno.TooManyFilesOfAll, guest.Error(NinePType.XattrCreate, 3u, "user.many", 65536ul, 0u));
        Assert.Equal(Errno.TooBig, guest.Error(NinePType.XattrCreate, 3u, "user.many", 65537ul, 0u));

        void Put(string name, string value)
        {
            guest.Walk(2, 3);
            guest.Call(NinePType.XattrCreate, Guest.Bytes(3u, name, (ulong)value.Length, 0u));
            if (value.Length > 0) guest.Write(3, 0, Encoding.ASCII.GetBytes(value));
            guest.Call(NinePType.Clunk, Guest.Bytes(3u));
        }
        string Get(string name)
        {
            ulong length = BinaryPrimitives.ReadUInt64LittleEndian(guest.Call(NinePType.XattrWalk, Guest.Bytes(2u, 3u, name)));
            byte[] value = guest.Read(3, 0, 1000);
            Assert.Equal(length, (ulong)value.Length);
            guest.Call(NinePType.Clunk, Guest.Bytes(3u));
            return Encoding.ASCII.GetString(value);
        }
    }

    /// <summary>Names that are paths, symbolic links, FIFOs and devices: nothing leads out, and nothing is opened that could wait.</summary>
    [Fact]
    public void Nothing_leads_out_of_the_folder()
    {
        Directory.CreateDirectory(_host["folder"]);
        File.CreateSymbolicLink(_host["out"], "../outside");
        File.CreateSymbolicLink(_host["secret"], "../outside/secret");
        _host.MakeFifo("fifo");
        using Guest guest = Mounted();
        guest.Walk(Root, 2);
        foreach (string name in (string[])["..", ".", "", "../outside", "/etc", "folder/x", "folder\0"])
        {
            Assert.Equal(Errno.Invalid, guest.Walk(Root, 9, name));
            Assert.Equal(Errno.Invalid, guest.Error(NinePType.Create, 2u, name, ReadWrite, 0x81A4u, 0u));
            Assert.Equal(Errno.Invalid, guest.Error(NinePType.MakeFolder, Root, name, 0x1EDu, 0u));
            Assert.Equal(Errno.Invalid, guest.Error(NinePType.MakeNode, Root, name, 0x81A4u, 0u, 0u, 0u));
            Assert.Equal(Errno.Invalid, guest.Error(NinePType.SymbolicLink, Root, name, "x", 0u));
            Assert.Equal(Errno.Invalid, guest.Error(NinePType.RenameAt, Root, "folder", Root, name));
            Assert.Equal(Errno.Invalid, guest.Error(NinePType.RenameAt, Root, name, Root, "x"));
            Assert.Equal(Errno.Invalid, guest.Error(NinePType.UnlinkAt, Root, name, 0x200u));
        }
        Assert.Equal(Errno.NameTooLong, guest.Walk(Root, 9, new string('x', 256)));
        Assert.Equal(Errno.NameTooLong, guest.Error(NinePType.SymbolicLink, Root, "long", new string('x', 5000), 0u));
        foreach (string name in (string[])["out", "secret", "fifo"])
        {
            Assert.Equal(0, guest.Walk(Root, 3, name));
            Assert.Equal(1, BinaryPrimitives.ReadUInt16LittleEndian(guest.Call(NinePType.Walk, Guest.WalkBody(Root, 9, name, "secret"))));
            Assert.Equal(Errno.AccessDenied, guest.Error(NinePType.Open, 3u, ReadWrite));
            Assert.NotEqual(0, guest.Error(NinePType.Create, 3u, "made", ReadWrite, 0x81A4u, 0u));
            guest.Call(NinePType.Clunk, Guest.Bytes(3u));
        }
        _host.AssertOutsideUntouched();
    }

    [Fact]
    public void A_read_only_folder_stays_as_it_is()
    {
        File.WriteAllText(_host["file"], "text");
        using var guest = new Guest(new SharedFolder(_host.Path) { IsReadOnly = true });
        guest.Walk(Root, 2, "file");
        guest.Walk(Root, 3);
        Assert.Equal(Errno.ReadOnly, guest.Error(NinePType.Open, 2u, ReadWrite));
        Assert.Equal(Errno.ReadOnly, guest.Error(NinePType.Open, 2u, Truncate));
        Assert.Equal(Errno.ReadOnly, guest.Error(NinePType.Create, 3u, "new", ReadWrite, 0x81A4u, 0u));
        Assert.Equal(Errno.ReadOnly, guest.Error(NinePType.SetAttributes, Guest.Bytes(2u, 1u, new byte[60])));
        Assert.Equal(Errno.ReadOnly, guest.Error(NinePType.UnlinkAt, Root, "file", 0u));
        Assert.Equal(Errno.ReadOnly, guest.Error(NinePType.XattrCreate, 2u, "user.x", 1ul, 0u));
        guest.Call(NinePType.Open, Guest.Bytes(2u, ReadOnlyOpen));
        Assert.Equal(Errno.BadDescriptor, guest.Error(NinePType.Write, 2u, 0ul, 1u, (byte)1));
        Assert.Equal("text"u8.ToArray(), guest.Read(2, 0, 10));
    }

    [Fact]
    public void A_device_is_saved_while_nothing_is_mounted()
    {
        using Guest guest = Mounted();
        guest.Rig.Machine.Pause();
        CannotSaveException e = Assert.Throws<CannotSaveException>(() => guest.Rig.Machine.Save());
        Assert.Contains("has the shared folder mounted", e.Message, StringComparison.Ordinal);
        guest.Rig.Machine.Resume();
        guest.Call(NinePType.Clunk, Guest.Bytes(Root));
        guest.Rig.Machine.Pause();
        guest.Rig.Machine.Restore(guest.Rig.Machine.Save());
        guest.Rig.Machine.Resume();
        Assert.Equal(Errno.Io, guest.Error(NinePType.Attach, Root, uint.MaxValue, "", "", 0u)); // a session begins anew
        guest.Mount();
    }

    [Fact]
    public void What_is_no_request_makes_the_device_ask_for_a_reset()
    {
        using Guest guest = Mounted();
        guest.Post(Guest.Bytes(6u, (byte)100, (byte)0), 100);
        Assert.True(SpinWait.SpinUntil(() => guest.Driver.Status.HasFlag(VirtioStatus.NeedsReset), TimeSpan.FromMinutes(1)));
        guest.SetUp();
        guest.Mount();
        guest.Post(Guest.Bytes(7u, (byte)100, (ushort)0), 10); // no room for an error
        Assert.True(SpinWait.SpinUntil(() => guest.Driver.Status.HasFlag(VirtioStatus.NeedsReset), TimeSpan.FromMinutes(1)));
        guest.SetUp();
        guest.Mount();
        Assert.Equal(0x4000u, guest.See(Root).Mode & 0xF000);
    }

    /// <summary>Any operation, with any lengths, numbers and names: the server answers, and touches nothing outside.</summary>
    [Theory]
    [InlineData(1)]
    [InlineData(2)]
    [InlineData(3)]
    [InlineData(4)]
    public void A_hostile_client_harms_the_folder_alone(int seed)
    {
        string[] names =
        [
            "a", "b", "c", "d", "out", "fifo", "user.x", "\u00e4", "..", ".", "", "a/b", "../outside", "/", "c\nd", "e\0f", new('x', 255), new('y', 300),
            "user.bunraku.status",
        ];
        _host.MakeTraps();
        using var guest = new Guest(new SharedFolder(_host.Path) { MostDescriptors = 40 });
        var random = new Random(seed);
        NinePType[] known = Enum.GetValues<NinePType>();
        var answered = new HashSet<NinePType>();
        for (int n = 0; n < 30_000; n++)
        {
            NinePType type = random.Next(20) == 0 ? (NinePType)random.Next(256) : random.Next(3) == 0 ? NinePType.Walk : known[random.Next(known.Length)];
            if (type is NinePType.Version or NinePType.Sync && random.Next(50) != 0) continue;
            byte[] body = random.Next(4) == 0 ? RandomBodies.Any(random) : RandomBodies.Spoilt(random, Body(type));
            byte[] message = Guest.Bytes(random.Next(50) == 0 ? (uint)random.NextInt64(1L << 32) : (uint)(7 + body.Length), (byte)type, (ushort)n, body);
            int room = random.Next(6) switch { 0 => 11 + random.Next(300), 1 => 11, _ => 11 + random.Next(70_000) };
            (byte[] answer, uint written) = guest.Send(message, room);
            Assert.InRange(written, 7u, (uint)room);
            Assert.Equal(written, BinaryPrimitives.ReadUInt32LittleEndian(answer));
            if (answer[4] != ErrorAnswer) answered.Add(type);
            if (type == NinePType.Version || random.Next(500) == 0) guest.Mount();
        }
        // Most of it is nonsense, but not all.
        NinePType[] never = [.. known.Except(answered).Except([NinePType.Auth, NinePType.Remove, NinePType.Rename])];
        Assert.True(never.Length == 0, $"never done: {string.Join(", ", never)}");
        Assert.False(guest.Driver.Status.HasFlag(VirtioStatus.NeedsReset));
        guest.Mount();
        Assert.Equal(0x4000u, guest.See(Root).Mode & 0xF000);
        _host.AssertOutsideUntouched();

        uint Fid() => random.Next(30) == 0 ? (uint)random.NextInt64(1L << 32) : (uint)random.Next(1, 8);
        string Name() => names[random.Next(3) == 0 ? random.Next(names.Length) : random.Next(7)];
        ulong Offset() => random.Next(10) == 0 ? (ulong)random.NextInt64() * 2 : random.Next(2) == 0 ? 0 : (ulong)random.Next(9000);
        uint Small() => (uint)random.Next(4);
        byte[] Body(NinePType type) => type switch
        {
            NinePType.Version => Guest.Bytes((uint)random.Next(1 << 17), random.Next(4) == 0 ? "9P2000" : "9P2000.L"),
            NinePType.Attach => Guest.Bytes(Fid(), uint.MaxValue, Name(), Name(), Small()),
            NinePType.Walk => Guest.WalkBody(Fid(), Fid(), [.. Enumerable.Range(0, random.Next(4)).Select(_ => Name())]),
            NinePType.Open => Guest.Bytes(Fid(), random.Next(2) == 0 ? 0 : Small() | (random.Next(4) == 0 ? Truncate : 0)),
            NinePType.Create => Guest.Bytes(Fid(), Name(), (uint)random.Next(0x1000), 0x8000 | (uint)random.Next(0x1000), Small()),
            NinePType.Read or NinePType.ReadFolder => Guest.Bytes(Fid(), Offset(), random.Next(10) == 0 ? uint.MaxValue : (uint)random.Next(9000)),
            NinePType.Write => Data(),
            NinePType.Sync => Guest.Bytes(Fid(), Small()),
            NinePType.GetAttributes => Guest.Bytes(Fid(), Offset()),
            NinePType.SetAttributes => Guest.Bytes(
                Fid(), (uint)random.Next(1 << 9), (uint)random.Next(1 << 16), Small(), Small(), Offset(), Offset(), Offset(), Offset(), Offset()),
            NinePType.XattrWalk => Guest.Bytes(Fid(), Fid(), random.Next(2) == 0 ? "" : "user.x"),
            NinePType.XattrCreate => Guest.Bytes(Fid(), Name(), random.Next(10) == 0 ? Offset() : Small(), Small()),
            NinePType.SymbolicLink => Guest.Bytes(Fid(), Name(), Name(), Small()),
            NinePType.MakeNode => Guest.Bytes(Fid(), Name(), (uint)random.Next(16) << 12 | 0x1A4, Small(), Small(), Small()),
            NinePType.MakeFolder => Guest.Bytes(Fid(), Name(), (uint)random.Next(0x1000), Small()),
            NinePType.Link => Guest.Bytes(Fid(), Fid(), Name()),
            NinePType.RenameAt => Guest.Bytes(Fid(), Name(), Fid(), Name()),
            NinePType.UnlinkAt => Guest.Bytes(Fid(), Name(), random.Next(2) == 0 ? 0u : 0x200u),
            NinePType.Lock => Guest.Bytes(Fid(), (byte)1, 0u, Offset(), Offset(), 1u, Name()),
            NinePType.GetLock => Guest.Bytes(Fid(), (byte)1, Offset(), Offset(), 1u, Name()),
            _ => Guest.Bytes(Fid()),
        };
        byte[] Data()
        {
            byte[] data = new byte[random.Next(3) == 0 ? random.Next(3000) : random.Next(4)];
            return Guest.Bytes(Fid(), Offset(), (uint)data.Length, data);
        }
    }
}
